"""A controller with `[target] kind = "lio"` under systemd, in its sandbox, on a lab host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs.host import Host
from tests.lab.controller import IQN, UNIT, Controller
from tests.lab.lio import (
    TARGETS,
    UNIT_ATTENTION,
    Load,
    heard,
    log_in,
    log_in_as,
    log_out,
    relogins,
    until,
)

pytestmark = pytest.mark.lab


@pytest.fixture
def controller(solo: Host) -> Iterator[Controller]:
    made = Controller(solo)
    made.install()
    made.start()
    yield made
    print(made.log())
    log_out(solo)
    made.remove()


def test_a_volume_through_its_life(controller: Controller) -> None:
    host = controller.host
    assert "the kernel's target serves hosts" in controller.log()
    controller.trilun("volume", "create", "ctl1/v", str(64 << 20))
    disk = log_in(host, IQN)  # at once: the command ends when hosts can find it
    serial = host.run("cat", f"/sys/block/{Path(disk).name}/device/wwid").text
    info = controller.trilun("volume", "show", "ctl1/v")
    assert re.sub("^naa.", "", serial) == info["naa"]

    # Law L12 and deletion: who is logged in is known, and in the way.
    until(lambda: bool(controller.trilun("volume", "show", "ctl1/v")["sessions"]), "a session")
    before = host.shell(f"ls -R {TARGETS}/iscsi").text
    refused = controller.operate("volume", "delete", "ctl1/v")
    assert refused.returncode != 0
    assert "is logged in" in refused.stderr
    assert host.shell(f"ls -R {TARGETS}/iscsi").text == before

    # Killed and started again by systemd, restarted by an operator: pauses.
    load = Load(host, disk)
    load.start()
    load.goes_on()
    host.run("systemctl", "kill", "-s", "KILL", UNIT)
    load.goes_on()
    host.run("systemctl", "restart", UNIT)
    load.goes_on()
    load.ends_well()

    log_out(host)
    controller.trilun("volume", "delete", "ctl1/v")
    assert "trilun" not in host.shell(f"ls {TARGETS}/iscsi {TARGETS}/core").text
    left = host.shell(f"ls {TARGETS}/core").text.split()
    assert "user_747" not in left


def test_a_volume_grows_under_its_host(controller: Controller) -> None:
    """A file system on it grows while files are written there; a restart finds the larger one."""
    host = controller.host
    controller.trilun("volume", "create", "ctl1/v", str(64 << 20))
    disk = log_in(host, IQN)
    host.shell(f"mkfs.ext4 -q {disk} && mkdir -p /mnt/v && mount {disk} /mnt/v")
    try:
        host.shell("head -c 40M /dev/urandom >/mnt/v/a && sync /mnt/v/a")
        host.run("dmesg", "-C")
        info = controller.trilun("volume", "grow", "ctl1/v", str(192 << 20))["result"]
        assert info["size_bytes"] == 192 << 20

        def has_grown() -> bool:
            # The kernel raises the attention in answer to a command of the host's.
            host.run("iscsiadm", "-m", "session", "-R")
            return host.run("blockdev", "--getsize64", disk).text == str(192 << 20)

        until(has_grown, "the disk has grown")
        host.shell(f"resize2fs -p {disk} && head -c 100M /dev/urandom >/mnt/v/b")
        before = host.shell("sync -f /mnt/v; cd /mnt/v; sha256sum a b").text
        host.run("systemctl", "restart", UNIT)
        host.shell("echo 3 >/proc/sys/vm/drop_caches")
        assert host.shell("cd /mnt/v; sha256sum a b").text == before
    finally:
        host.shell("umount /mnt/v")
    assert controller.trilun("volume", "show", "ctl1/v")["size_bytes"] == 192 << 20
    host.shell(f"e2fsck -fn {disk}")
    log_out(host)
    controller.trilun("volume", "delete", "ctl1/v")


def test_each_host_of_a_volume_that_was_replaced_hears_of_it(controller: Controller) -> None:
    """Law L12."""
    host = controller.host
    for name in ("v", "w"):
        controller.trilun("volume", "create", f"ctl1/{name}", str(16 << 20))
    controller.trilun("pair", "create", "p", "ctl1/v", "ctl1/w")
    controller.trilun("pair", "wait", "p", "PAIR", "--timeout", "60")
    disks = log_in_as(host, "one", "two", iqn=IQN)
    controller.trilun("pair", "split", "p")
    host.shell(f"dd if=/dev/zero of={disks[0]} bs=4k count=1 oflag=direct status=none")
    host.run("dmesg", "-C")
    refused = controller.trilun("pair", "resync", "p", "--reverse", check=False)
    assert "logged in" in refused["error"]["message"]
    assert [heard(host, disk) for disk in disks] == [[], []]
    controller.trilun("pair", "resync", "p", "--reverse", "--force")
    controller.trilun("pair", "wait", "p", "PAIR", "--timeout", "60")
    until(lambda: all(UNIT_ATTENTION in heard(host, disk) for disk in disks), "both hear of it")
    log_out(host)
    controller.trilun("pair", "delete", "p")
    for name in ("v", "w"):
        controller.trilun("volume", "delete", f"ctl1/{name}")


def test_a_daemon_that_is_away_for_long_is_a_pause(controller: Controller) -> None:
    """Killed, and started again by systemd ten seconds later."""
    host = controller.host
    controller.drop_in("away", "[Service]\nRestartSec=10\n")
    controller.trilun("volume", "create", "ctl1/v", str(64 << 20))
    load = Load(host, log_in(host, IQN))
    load.start()
    load.goes_on()
    host.run("dmesg", "-C")
    before = controller.restarts()
    host.run("systemctl", "kill", "-s", "KILL", UNIT)
    until(lambda: controller.show("SubState") == "auto-restart", "it to be away")
    assert controller.show("RestartUSec") == "10s"
    controller.wait_restarted(before)
    load.goes_on()
    load.ends_well()
    assert relogins(host) == 0
    log_out(host)
    controller.trilun("volume", "delete", "ctl1/v")


def test_it_says_what_serves_hosts(controller: Controller) -> None:
    assert "lio" in controller.operate("status").stdout
