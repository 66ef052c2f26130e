"""The lab as a tool: its commands, its links, and that nothing is left of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.labs.data_sets import wait_for
from deploy.labs.lab import Lab
from deploy.labs.process import Process
from deploy.labs.roles import ADDRESSES
from tests.lab.commands import command

pytestmark = pytest.mark.lab

CONNECT = """
import socket, sys, time
began = time.monotonic()
socket.create_connection((sys.argv[1], 7), timeout=float(sys.argv[2])).close()
print(time.monotonic() - began)
"""


def connects(lab: Lab, one: str, other: str, timeout_s: float = 2.0) -> float | None:
    """How long a connection from one host to another takes, in seconds; None when there is none."""
    where = (ADDRESSES[other], str(timeout_s))
    ran = lab.host(one).run("python3", "-IS", "-c", CONNECT, *where, check=False)
    return float(ran.text) if ran.code == 0 else None


def wait_connected(lab: Lab, one: str, other: str) -> None:
    """Wait until they see each other: who looked in vain a moment ago is told so once more."""
    wait_for(lambda: connects(lab, one, other) is not None, f"{one} to see {other}")


def test_commands(lab: Lab) -> None:
    status = command(lab.directory, "status")
    assert status.returncode == 0, status.stderr
    for name in lab.names:
        assert f"\n{name} " in status.stdout
    ran = command(lab.directory, "run", "host1", "sh", "-c", "hostname; echo no >&2; exit 5")
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, "host1\n", "no\n")
    said = command(lab.directory, "trilun", "--json", "status")
    assert {entry["node"] for entry in json.loads(said.stdout)["nodes"]} >= {"primary", "secondary"}
    unknown = command(lab.directory, "plug", "host9")
    assert unknown.returncode == 2
    assert "there is no host 'host9'" in unknown.stderr


def test_up_twice_changes_nothing(lab: Lab) -> None:
    before = {name: host.process for name, host in lab.hosts.items()}
    again = Lab.up(lab.directory, lab.names, lab.target)
    assert {name: host.process for name, host in again.hosts.items()} == before


def test_units_run_from_the_wheel_in_a_sandbox(lab: Lab) -> None:
    show = ("-p", "ExecMainStatus", "-p", "User", "-p", "ActiveState", "--value")
    shown = lab.host("primary").run("systemctl", "show", "trilund@primary", *show).text.split()
    assert sorted(shown) == ["0", "active", "trilun"]
    lab.host("primary").shell("cd /; test -x /opt/trilun/bin/trilund")
    where = lab.host("primary").shell(
        "cd /; /opt/trilun/bin/python -c 'import controller; print(controller.__file__)'"
    )
    assert where.text.startswith("/opt/trilun/lib")


def test_a_target_stands_for_all_of_trilun_on_a_host(lab: Lab) -> None:
    """As docs/installing.md has it: enabled with the unit, and the unit comes and goes with it."""
    host = lab.host("host2")
    units = ("trilun.target", "trilun-agent@host2.service")

    def states() -> list[str]:
        return host.run("systemctl", "is-active", *units, check=False).text.split()

    assert host.run("systemctl", "is-enabled", *units).text.split() == ["enabled", "enabled"]
    assert states() == ["active", "active"]
    host.run("systemctl", "stop", units[0])
    try:
        wait_for(lambda: states() == ["inactive", "inactive"], "the unit to stop, too", 60)
    finally:
        host.run("systemctl", "start", units[0])
    wait_for(lambda: states() == ["active", "active"], "the unit to start, too", 60)


def test_a_cut_link_and_a_slow_one(lab: Lab) -> None:
    try:
        lab.cut("host1", "secondary")
        assert connects(lab, "host1", "secondary") is None
        assert connects(lab, "secondary", "host1") is None
        assert connects(lab, "host1", "primary") is not None
        lab.mend("host1", "secondary")
        wait_connected(lab, "host1", "secondary")
        lab.delay("host1", "secondary", 100)
        slow, quick = connects(lab, "host1", "secondary"), connects(lab, "host1", "primary")
        assert slow is not None
        assert quick is not None
        assert slow >= 0.2 > quick
    finally:
        lab.mend("host1", "all")
    wait_connected(lab, "host1", "secondary")
    assert lab.links.broken() == []


def test_a_cut_outlives_a_boot(lab: Lab) -> None:
    lab.cut("host2", "all")
    try:
        lab.host("host2").kill()
        lab.host("host2").start()
        lab.host("host2").wait_booted()
        assert connects(lab, "host2", "primary") is None
    finally:
        lab.mend("host2", "all")
    wait_connected(lab, "host2", "primary")


def test_nothing_is_left(tmp_path: Path) -> None:
    """A small lab, taken down while one of its hosts boots."""
    directory = tmp_path / "lab"
    before = Path("/proc/self/mounts").read_text(encoding="utf-8")
    lab = Lab._make(directory, ["host2"], "embedded")
    lab.host("host2").start()
    processes = [lab.network.holder, lab.host("host2").process]
    assert all(isinstance(entry, Process) and entry.alive for entry in processes)
    assert Lab.down(directory)
    assert not any(isinstance(entry, Process) and entry.alive for entry in processes)
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mounts").read_text(encoding="utf-8") == before
    assert not Lab.down(directory)
