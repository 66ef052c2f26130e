"""Files served through a lab host's own kernel, and an initiator on the same host."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.labs.host import Host

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/bin/python"
UNIT = "lio-files"
LOAD_UNIT = "fio-verify"
NODE = "files"
IQN = "iqn.2026-11.io.trilun:files.f0"
TARGETS = "/sys/kernel/config/target"
UNIT_ATTENTION = "Inquiry data has changed"
"""What Linux says when it hears the one that the kernel's target has for all."""


def until(true: Callable[[], bool], what: str, within_s: float = 40.0) -> None:
    """Wait for a condition on a host."""
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.4)  # a look costs the host's one processor more than the waiting


@dataclass
class Files:
    """`python -m targets.lio` as a unit of the host's systemd."""

    host: Host
    files: list[str] = field(default_factory=lambda: ["/srv/f0"])
    options: list[str] = field(default_factory=list)
    unit: str = UNIT
    secret: str = ""
    """For CHAP, with `--chap-user` among the options."""

    def prepare(self, size: str = "64M") -> None:
        """Make empty files, and what the initiator needs."""
        self.host.shell("modprobe -a iscsi_tcp sd_mod; systemctl start iscsid")
        for path in self.files:
            self.host.shell(f"rm -f {path}; truncate -s {size} {path}")

    def start(self) -> None:
        """Start; returns when it is ready, or has ended."""
        command = [str(PYTHON), "-m", "targets.lio", "--verbose", *self.options]
        for path in self.files:
            command += ["--file", path]
        self.host.shell(
            f"systemctl reset-failed {self.unit} 2>/dev/null || true\n"
            # systemd-run may return before the unit has emptied it of what its last life said.
            f"rm -f /run/{self.unit}.log\n"
            f"systemd-run -q --unit={self.unit} -p WorkingDirectory={ROOT} "
            f"-p StandardOutput=truncate:/run/{self.unit}.log -p StandardError=inherit "
            f"-p Environment=TRILUN_CHAP_SECRET={self.secret} {shlex.join(command)}"
        )
        until(lambda: self.said("ready") or not self.active, "files are served")

    def stop(self) -> None:
        """A clean stop."""
        self.host.run("systemctl", "stop", self.unit, check=False)

    def kill(self) -> None:
        """SIGKILL; returns when the process has gone."""
        self.host.run("systemctl", "kill", "-s", "KILL", self.unit)
        until(lambda: not self.active, "the killed process has gone")

    @property
    def active(self) -> bool:
        state = self.host.run("systemctl", "show", "-P", "ActiveState", self.unit, check=False)
        return state.text not in {"inactive", "failed"}

    @property
    def log(self) -> str:
        """What it said in its latest life."""
        return self.host.run("cat", f"/run/{self.unit}.log", check=False).text

    def said(self, words: str) -> bool:
        return words in self.log


def forget(host: Host) -> None:
    """Have the kernel forget all that these files' targets left in it."""
    forgetting = Files(host, files=[], unit="lio-forget")
    forgetting.start()
    forgetting.stop()
    left = host.shell(f"ls {TARGETS}/iscsi {TARGETS}/core | grep -E 'trilun|user_747' || true")
    assert not left.text


def log_in(host: Host, iqn: str = IQN, address: str = "127.0.0.1") -> str:
    """Log in; the disk's device node."""
    host.run("iscsiadm", "-m", "discovery", "-t", "st", "-p", address)
    host.run("iscsiadm", "-m", "node", "-T", iqn, "-p", address, "-l")
    link = f"/dev/disk/by-path/ip-{address}:3260-iscsi-{iqn}-lun-0"
    until(lambda: host.run("test", "-b", link, check=False).code == 0, f"{link} is there")
    return host.run("readlink", "-f", link).text


def log_in_as(
    host: Host, *names: str, iqn: str = IQN, address: str = "127.0.0.1"
) -> tuple[str, ...]:
    """Log in once for each initiator name; their disks' device nodes."""
    for name in names:
        host.shell(
            f"iscsiadm -m iface -I {name} -o new || true\n"
            f"iscsiadm -m iface -I {name} -o update -n iface.initiatorname -v {initiator(name)}\n"
            f"iscsiadm -m iface -I {name} -o update -n iface.transport_name -v tcp\n"
            f"iscsiadm -m discovery -t st -p {address} -I {name}\n"
            f"iscsiadm -m node -T {iqn} -p {address} -I {name} -l"
        )
    return tuple(_disk_of(host, name) for name in names)


def initiator(name: str) -> str:
    """The iSCSI name of one of `log_in_as`."""
    return f"iqn.2026-11.io.lab:{name}"


def heard(host: Host, disk: str) -> list[str]:
    """All that a disk's initiator has heard by the end of its next command, in Linux's words."""
    address = host.run("readlink", "-f", f"/sys/block/{Path(disk).name}/device").text
    host.shell(f"dd if={disk} of=/dev/null bs=4k count=2 iflag=direct status=none")
    mine = f"sd {address.rpartition('/')[2]}: "
    lines = host.run("dmesg").text.splitlines()
    return [line.partition(mine)[2] for line in lines if mine in line and "changed" in line]


def _disk_of(host: Host, name: str) -> str:
    find = (
        f"cd /sys/class/iscsi_session; s=$(grep -lx {initiator(name)} */initiatorname)\n"
        "ls ${s%/*}/device/target*/*/block"
    )
    until(lambda: host.shell(find, check=False).code == 0, f"{name} has a disk")
    return f"/dev/{host.shell(find).text}"


def log_out(host: Host) -> None:
    """End all sessions and forget all targets."""
    host.run("iscsiadm", "-m", "node", "-u", check=False)
    host.run("iscsiadm", "-m", "node", "-o", "delete", check=False)


def relogins(host: Host) -> int:
    """How often a session was cut since `dmesg -C`."""
    return int(host.shell("dmesg | grep -c 'detected conn error' || true").text)


ENDS_WITHIN_S = 120.0
"""Longer than a command may take until the initiator gives it up."""
STUCK = """
grep -H . /sys/block/sd*/inflight /sys/class/scsi_device/*/device/state
for pid in $(pidof fio); do grep State /proc/$pid/status; cat /proc/$pid/wchan; echo; done
dmesg | tail -40
"""
"""What tells a command that was lost from a program that hangs."""


@dataclass
class Load:
    """fio, writing and verifying what it wrote, until `ends_well`."""

    host: Host
    disk: str
    unit: str = LOAD_UNIT

    def start(self) -> None:
        command = (
            f"fio --name=v --filename={self.disk} --size=48M --direct=1 --rw=randwrite --bs=4k "
            "--iodepth=16 --ioengine=libaio --verify=crc32c --verify_backlog=64 --verify_fatal=1 "
            "--time_based --runtime=900"
        )
        self.host.shell(
            f"systemctl reset-failed {self.unit} 2>/dev/null || true\n"
            f"systemd-run -q --unit={self.unit} "
            f"-p StandardOutput=truncate:/run/{self.unit}.log -p StandardError=inherit {command}"
        )
        until(lambda: self.written > 0, "fio writes")

    @property
    def written(self) -> int:
        """Sectors written to the disk."""
        name = Path(self.disk).name
        return int(self.host.run("cat", f"/sys/block/{name}/stat").text.split()[6])

    def goes_on(self) -> None:
        """Return when more was written."""
        now = self.written
        until(lambda: self.written > now + 64, "fio goes on writing")

    def ends_well(self) -> None:
        """No I/O failed, and what was read back is what was written."""
        # Its main process alone: what it does about a signal is not safe in the one that writes.
        self.host.run("systemctl", "kill", "-s", "INT", "--kill-who=main", self.unit, check=False)
        log = f"cat /run/{self.unit}.log"
        try:
            until(lambda: "err=" in self.host.shell(log).text, "fio ends", ENDS_WITHIN_S)
        except AssertionError as error:
            raise AssertionError(self.host.shell(f"{log}; {STUCK}", check=False).text) from error
        text = self.host.shell(log).text
        assert "err= 0" in text, text
        assert "error" not in text, text
        errors = self.host.shell("dmesg | grep -E 'I/O error|rejecting I/O' || true").text
        assert not errors


def configuration(host: Host, *without: str) -> str:
    """All of the kernel's target configuration as text, but for counters and some paths."""
    script = (
        f"cd {TARGETS}\n"
        "find . \\( -name statistics -o -name fabric_statistics \\) -prune -o -type l "
        "-printf '%p -> %l\\n' -o -type d -printf '%p/\\n' -o -type f -perm -u+r -print | sort "
        "| while read -r line; do\n"
        '  echo "$line"; [ -f "$line" ] && { cat "$line" 2>&1 || true; }\n'
        "done || true"
    )
    lines = host.shell(script).stdout.decode(errors="replace").replace("\0", "")
    kept: list[str] = []
    skip = False
    for line in lines.splitlines():
        named = any(each in line for each in without)  # also where the kernel lists members
        if line.startswith("./"):
            skip = named
        if not skip and not named:
            kept.append(line)
    return "\n".join(kept)
