"""A controller with `[target] kind = "lio"` under systemd, in its sandbox, on a lab host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.labs.host import Host
from tests.lab.lio import (
    ROOT,
    TARGETS,
    UNIT_ATTENTION,
    Load,
    heard,
    log_in,
    log_in_as,
    log_out,
    until,
)

pytestmark = pytest.mark.lab

UNIT = "trilund@ctl1"
BIN = ROOT / ".venv/bin"
SYSTEMD = ROOT / "systemd"
IQN = "iqn.2026-11.io.trilun:ctl1.v"


@dataclass
class Controller:
    host: Host

    def install(self) -> None:
        """As docs/configuration.md says, but for the place of the programs."""
        unit = (SYSTEMD / "trilund@.service").read_text().replace("/opt/trilun/bin", str(BIN))
        # The tree of a developer may lie in a home directory, or in a temporary one.
        unit = unit.replace("ProtectHome=yes", "ProtectHome=read-only")
        unit = unit.replace("PrivateTmp=yes", f"PrivateTmp=yes\nBindReadOnlyPaths={ROOT}")
        config = (
            'node = "ctl1"\n[broker]\nhost = "127.0.0.1"\nport = 1884\n'
            '[target]\nkind = "auto"\nlisten = ["127.0.0.1:3260"]\n'
        )
        self.put("/etc/systemd/system/trilund@.service", unit)
        self.put(
            f"/etc/systemd/system/{UNIT}.service.d/lio.conf",
            (SYSTEMD / "lio/trilund.conf").read_text(),
        )
        self.put("/etc/trilun/ctl1.toml", config)
        self.put("/srv/broker.conf", "listener 1884 127.0.0.1\nallow_anonymous true\n")
        modules = (SYSTEMD / "lio/modules-load.conf").read_text().splitlines()
        names = " ".join(line for line in modules if not line.startswith("#"))
        self.put("/run/tmpfiles.conf", (SYSTEMD / "lio/tmpfiles.conf").read_text())
        self.host.shell(
            f"modprobe -a {names} iscsi_tcp sd_mod; systemctl start iscsid\n"
            "systemd-tmpfiles --create /run/tmpfiles.conf\n"
            "id trilun >/dev/null 2>&1 || useradd --system --no-create-home trilun\n"
            # A developer's interpreter may lie in a home directory, too: root's alone is closed.
            "chmod o+x /root; systemctl daemon-reload\n"
            "systemd-run -q --unit=broker mosquitto -c /srv/broker.conf"
        )

    def put(self, path: str, text: str) -> None:
        self.host.shell(f"mkdir -p {Path(path).parent}")
        self.host.run("tee", path, stdin=text.encode())

    def start(self) -> None:
        """Type=notify: returns when volumes are exported."""
        self.host.run("systemctl", "start", UNIT)

    def trilun(self, *arguments: str, check: bool = True) -> dict[str, Any]:
        command = [str(BIN / "trilun"), "--broker", "127.0.0.1:1884", "--json", *arguments]
        text = self.host.run(*command, check=check).text
        return dict(json.loads(text)) if text else {}

    def log(self) -> str:
        return self.host.run("journalctl", "-o", "cat", "-u", UNIT).text


@pytest.fixture
def controller(solo: Host) -> Iterator[Controller]:
    made = Controller(solo)
    made.install()
    made.start()
    yield made
    print(made.log())
    log_out(solo)
    solo.run("systemctl", "stop", UNIT, "broker", check=False)


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
    refused = host.run(
        str(BIN / "trilun"), "--broker", "127.0.0.1:1884", "volume", "delete", "ctl1/v",
        check=False,
    )  # fmt: skip
    assert refused.code != 0
    assert "is logged in" in (refused.stdout + refused.stderr).decode()
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


def test_it_says_what_serves_hosts(controller: Controller) -> None:
    status = controller.host.run(
        str(BIN / "trilun"), "--broker", "127.0.0.1:1884", "status"
    ).stdout.decode()
    assert "lio" in status
