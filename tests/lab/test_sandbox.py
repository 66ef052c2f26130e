"""The units' sandboxes under a real systemd: what they keep out, and that all still works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.labs import data_sets
from deploy.labs.channel import Ran
from deploy.labs.host import Host
from deploy.labs.lab import Lab
from deploy.labs.roles import DataSet, unit_of
from tests.lab import settling

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DAC_OVERRIDE = 1 << 1  # linux/capability.h
PYTHON = "/opt/trilun/bin/python3"
LIES = """
import os, sys
from hostagent.looking.extents import extents_of
print(extents_of(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), "lies").known)
"""
HOLD = 'exec 3<"$0"; setsid sleep 100000 >/dev/null 2>&1 </dev/null & echo $!'


def main_pid(host: Host, unit: str) -> str:
    return host.run("systemctl", "show", unit, "-p", "MainPID", "--value").text


def inside(host: Host, unit: str, *argv: str, check: bool = False) -> Ran:
    """A command of root's, with a service's view of the files."""
    namespace = f"--mount=/proc/{main_pid(host, unit)}/ns/mnt"
    return host.run("nsenter", namespace, "--", *argv, check=check)


def mounted(host: Host, path: str) -> bool:
    """Whether the host, and not just a service, has something mounted at or below a path."""
    table = host.run("cat", "/proc/1/mountinfo").text
    mountpoints = [line.split(" ")[4] for line in table.splitlines()]
    return any(point == path or point.startswith(path + "/") for point in mountpoints)


@contextmanager
def held(host: Host, path: str) -> Iterator[str]:
    """A process of the host that has a file open; its pid."""
    pid = host.run("sh", "-euc", HOLD, path).text
    try:
        yield pid
    finally:
        host.run("kill", pid)


def make_file(host: Host, path: str, mib: int) -> str:
    """Make a file and return its digest."""
    host.shell(
        f"mkdir -p $(dirname {path}); dd if=/dev/urandom of={path} bs=1M count={mib} status=none"
    )
    return host.shell(f"sha256sum <{path}; sync").text


def test_the_agent_changes_its_own_files_only(lab: Lab, ext4: DataSet) -> None:
    host1, unit = lab.host("host1"), unit_of("host1")
    data_sets.wait_mounted(lab, ext4)
    for place in ("/etc", "/usr", "/srv", "/root", "/var/lib", "/run", "/sys/fs/cgroup"):
        refused = inside(host1, unit, "touch", f"{place}/from-the-agent")
        assert refused.code != 0, place
        assert b"Read-only file system" in refused.stderr, place
    tunable = inside(host1, unit, "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq")
    assert tunable.code != 0
    for place in ("/var/lib/trilun/host1", "/run/trilun/host1", ext4.mountpoint, "/tmp"):
        inside(host1, unit, "touch", f"{place}/from-the-agent", check=True)
        inside(host1, unit, "rm", f"{place}/from-the-agent", check=True)


def test_the_agent_can_tell_where_files_lie(lab: Lab, ext4: DataSet, xfs: DataSet) -> None:
    host1, unit = lab.host("host1"), unit_of("host1")
    for data in (ext4, xfs):
        data_sets.wait_mounted(lab, data)
        host1.shell(f"dd if=/dev/urandom of={data.mountpoint}/lies bs=1M count=2 status=none")
        where = (PYTHON, "-c", LIES, data.mountpoint)
        assert inside(host1, unit, *where, check=True).text == "True", data.filesystem
        host1.run("rm", f"{data.mountpoint}/lies")


def test_what_is_in_use_outlives_a_restart_of_the_agent(lab: Lab, ext4: DataSet) -> None:
    host1, unit = lab.host("host1"), unit_of("host1")
    data_sets.wait_mounted(lab, ext4)
    host1.shell(f"echo kept >{ext4.mountpoint}/kept")
    with held(host1, f"{ext4.mountpoint}/kept") as pid:
        host1.run("systemctl", "restart", unit, timeout_s=120)
        said = host1.run("journalctl", "-u", unit, "-o", "cat").text
        assert f"sleep (pid {pid}, {ext4.mountpoint}/kept)" in said
        assert host1.run("cat", f"{ext4.mountpoint}/kept").text == "kept"
        # It found the mount, and covered it with read-only as everything; until it took it up.
        data_sets.wait_for(
            lambda: inside(host1, unit, "touch", f"{ext4.mountpoint}/kept").code == 0,
            "the restarted agent to write to the volume",
        )
    host1.run("systemctl", "stop", unit, timeout_s=120)
    try:
        assert not mounted(host1, ext4.mountpoint)
        assert b"No active sessions" in host1.run("iscsiadm", "-m", "session", check=False).stderr
    finally:
        host1.run("systemctl", "start", unit, timeout_s=120)
    data_sets.wait_mounted(lab, ext4)


def test_a_restore_names_who_is_in_its_way(lab: Lab, ext4: DataSet) -> None:
    host1 = lab.host("host1")
    settling.make_whole(lab, ext4)
    path = f"{ext4.mountpoint}/held/book"
    good = make_file(host1, path, 1)
    lab.trilun("backup", ext4.name)
    host1.shell(f"echo damaged >{path}; sync")
    restore = ["restore", "--data-set", ext4.name, path]
    with held(host1, path) as pid:
        refused = lab.trilun(*restore, check=False)
        assert f"sleep (pid {pid}, {path})" in json.dumps(refused)
        assert host1.run("cat", path).text == "damaged"
        assert lab.trilun(*restore, "--force")["state"] == "done"
    data_sets.wait_mounted(lab, ext4)
    assert host1.shell(f"sha256sum <{path}").text == good


def test_an_agent_killed_in_the_middle_of_a_restore(lab: Lab, ext4: DataSet) -> None:
    """What it had mounted is there for its successor, who goes on and leaves nothing behind."""
    host1, host2 = lab.host("host1"), lab.host("host2")
    settling.make_whole(lab, ext4)
    path = f"{ext4.mountpoint}/killed/big"
    good = make_file(host1, path, 64)
    lab.trilun("backup", ext4.name)
    host1.shell(f"echo damaged >{path}; sync")
    # So that the copy is still under way when it has been seen.
    lab.delay("host2", "secondary", 20)
    job = str(lab.trilun("restore", "--no-wait", "--data-set", ext4.name, path)["id"])

    def copies() -> bool:
        step = lab.trilun("job", "show", job, check=False).get("step", "")
        return step in ("copy", "verify") and mounted(host2, "/run/trilun/host2/mounts")

    data_sets.wait_for(copies, "the job to copy")
    before = main_pid(host2, unit_of("host2"))
    host2.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit_of("host2"))
    lab.delay("host2", "secondary", 0)
    ended = lab.trilun("job", "wait", job, "--timeout", "180")
    assert ended["state"] == "done", json.dumps(ended, indent=1)
    assert main_pid(host2, unit_of("host2")) != before
    data_sets.wait_mounted(lab, ext4)
    assert host1.shell(f"sha256sum <{path}").text == good
    assert not mounted(host2, "/run/trilun/host2")
    assert b"No active sessions" in host2.run("iscsiadm", "-m", "session", check=False).stderr


@pytest.mark.parametrize("node", ["primary", "secondary"])
def test_a_controllers_capability_is_one_over_roots_files(lab: Lab, node: str) -> None:
    """It is the user namespace's: the files of users that are not mapped there stay theirs."""
    host = lab.host(node)
    process = f"/proc/{main_pid(host, unit_of(node))}"
    status = dict(
        line.split(":\t", 1) for line in host.run("cat", f"{process}/status").text.splitlines()
    )
    wanted = 0 if lab.target == "embedded" else DAC_OVERRIDE
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == wanted
    assert (
        host.shell(f"readlink {process}/ns/user").text
        != host.shell("readlink /proc/1/ns/user").text
    )
    mapped = [line.split() for line in host.run("cat", f"{process}/uid_map").text.splitlines()]
    assert [(entry[0], entry[2]) for entry in mapped] == [
        ("0", "1"),
        (host.run("id", "-u", "trilun").text, "1"),
    ]
