"""A daemon that stands still, with more under way than its ring has room for: nothing is stuck."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs.host import Host
from targets.lio.wanted import Backstore
from tests.lab.lio import Files, forget, log_in_as, log_out, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

NAMES = ("one", "two")
FILE = "/var/lib/trilun/frozen"
EACH_MIB = 64
DEPTH = 40
"""A MiB each, of each initiator: together more than the data area."""
AREA_MIB = Backstore("b", "trilun/b", 1 << 20, "S").data_mb
ENDED_WITHIN_S = 120.0
"""What `targets.lio.offered.CMD_TIME_OUT_S` is, and time to notice it on a busy machine."""

SLEEPERS = "cat /proc/[0-9]*/task/*/stat 2>/dev/null | sed -n 's/^[0-9]* (\\(.*\\)) D .*/\\1/p'"
ROUND_TRIP = """
head -c 1M /dev/urandom >/run/pattern
dd if=/run/pattern of="$0" bs=1M seek="$1" oflag=direct status=none
dd if="$0" bs=1M skip="$1" count=1 iflag=direct status=none | cmp - /run/pattern
"""


def unit(disk: str) -> str:
    return f"flood-{Path(disk).name}"


@pytest.fixture
def files(solo: Host) -> Iterator[Files]:
    served = Files(solo, files=[FILE])
    served.prepare(f"{len(NAMES) * EACH_MIB}M")
    served.start()
    yield served
    log_out(solo)
    served.stop()
    forget(solo)
    solo.run("rm", FILE)


@pytest.fixture
def disks(files: Files) -> Iterator[tuple[str, ...]]:
    """One for each initiator, all the same file."""
    found = log_in_as(files.host, *NAMES)
    for disk in found:
        place = f"/sys/block/{Path(disk).name}"
        files.host.shell(
            f"echo 1024 >{place}/queue/max_sectors_kb; echo {DEPTH} >{place}/device/queue_depth"
        )
    files.host.run("dmesg", "-C")
    yield found
    for disk in found:
        files.host.run("systemctl", "kill", "-s", "KILL", unit(disk), check=False)


def flood(host: Host, disk: str, part: int) -> None:
    """Large writes all over a disk's own part, until one fails."""
    host.shell(
        f"systemctl reset-failed {unit(disk)} 2>/dev/null || true\n"
        f"systemd-run -q --unit={unit(disk)} -p StandardOutput=truncate:/run/{unit(disk)}.log "
        "-p StandardError=inherit "
        f"fio --name=f --filename={disk} --offset={part * EACH_MIB}M --size={EACH_MIB}M --direct=1 "
        f"--rw=randwrite --bs=1M --iodepth={DEPTH} --ioengine=libaio --time_based --runtime=900"
    )


def under_way(host: Host, *disks: str) -> int:
    """Requests that have no answer yet."""
    names = " ".join(f"/sys/block/{Path(disk).name}/inflight" for disk in disks)
    return sum(map(int, host.shell(f"cat {names}").text.split()))


def freeze(files: Files, disks: tuple[str, ...]) -> None:
    """Stop the daemon where it stands; returns when no more fits into its ring."""
    host = files.host
    for part, disk in enumerate(disks):
        if host.run("systemctl", "is-active", "-q", unit(disk), check=False).code != 0:
            flood(host, disk, part)
    until(lambda: all(under_way(host, disk) for disk in disks), "both to write")
    host.run("systemctl", "kill", "-s", "STOP", files.unit)
    until(lambda: under_way(host, *disks) > AREA_MIB, "more to be under way than there is room for")
    until(lambda: under_way(host, *disks) <= AREA_MIB, "the kernel to send the rest away")


def written(host: Host, disk: str) -> int:
    return int(host.run("cat", f"/sys/block/{Path(disk).name}/stat").text.split()[6])


def errors(host: Host) -> str:
    return host.shell("dmesg | grep -E 'I/O error|rejecting I/O|offline' || true").text


def test_a_daemon_that_stands_still_holds_nobody_for_good(
    files: Files, disks: tuple[str, ...]
) -> None:
    host = files.host

    # Killed before the commands time out: a pause.
    freeze(files, disks)
    before = [written(host, disk) for disk in disks]
    files.kill()
    files.start()
    until(
        lambda: all(written(host, disk) > was for disk, was in zip(disks, before, strict=True)),
        "both to go on writing",
    )
    assert not errors(host)

    # Later the kernel ends them: whoever waits is told, and what comes then is served.
    freeze(files, disks)
    until(lambda: "I/O error" in errors(host), "the kernel to end what is out", ENDED_WITHIN_S)
    host.run("systemctl", "kill", "-s", "CONT", files.unit)
    for disk in disks:
        until(lambda disk=disk: fails_or_goes_on(host, disk), f"{disk} to be heard of")  # type: ignore[misc]
        host.run("systemctl", "kill", "-s", "INT", "--kill-who=main", unit(disk), check=False)
    until(lambda: under_way(host, *disks) == 0, "all to be answered")
    for part, disk in enumerate(disks):
        host.run("sh", "-euc", ROUND_TRIP, disk, str(part * EACH_MIB))
    log_out(host)
    assert not host.run("iscsiadm", "-m", "session", check=False).text
    until(lambda: not host.shell(SLEEPERS).text, "nobody to sleep for good")


def fails_or_goes_on(host: Host, disk: str) -> bool:
    """By name, or by writing more."""
    log = host.run("cat", f"/run/{unit(disk)}.log", check=False).text
    if "Input/output error" in log:
        return True
    before = written(host, disk)
    return under_way(host, disk) > 0 and written(host, disk) > before
