"""The files that make this machine's root file system a lab host's own.

Owns a host's layer, a directory that lies over the machine's files when the host boots, and the
list of units that start there. A machine may run anything; a host starts what is named here, and
what is put into its `/etc/systemd/system`. Writes below the layer's directory alone.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from deploy.labs.channel import PORT
from deploy.labs.process import call

LAB = "usr/lib/trilun-lab"
GUEST = Path(__file__).parent / "guest"
GENERATORS = Path("/usr/lib/systemd/system-generators")

OWN = (
    "etc/iscsi/ifaces",
    "etc/iscsi/nodes",
    "etc/modules-load.d",
    "etc/mosquitto/conf.d",
    "etc/systemd/network",
    "etc/systemd/system",
    "etc/systemd/system.conf.d",
    "etc/systemd/journald.conf.d",
    "etc/target",
    "etc/tmpfiles.d",
    "etc/trilun",
    "etc/udev/rules.d",
    "var/lib/iscsi",
    "var/lib/mosquitto",
    "var/lib/systemd",
    "var/lib/trilun",
    "var/target",
)
"""Directories in which a host sees nothing of the machine's."""

WANTED = (
    "sys-kernel-config.mount",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-modules-load.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
)
"""Units of the distribution that start at boot; the others would cost most of the boot's time."""

MODULES = ("fuse", "loop", "sd_mod")

AGENT_UNIT = f"""\
[Unit]
Description=the lab's way in
DefaultDependencies=no

[Service]
ExecStart=/usr/bin/python3 -IS /{LAB}/agent.py {PORT}
Environment=HOME=/root LANG=C.UTF-8 TERM=linux
KillMode=process
OOMScoreAdjust=-1000
Restart=always

[Install]
WantedBy=sysinit.target
"""

TMPFILES_UNIT = """\
[Unit]
Description=the files that /etc/tmpfiles.d alone asks for
DefaultDependencies=no
Before=sysinit.target
ConditionDirectoryNotEmpty=/etc/tmpfiles.d

[Service]
Type=oneshot
ExecStart=/bin/sh -c "exec systemd-tmpfiles --create /etc/tmpfiles.d/*.conf"
"""

JOURNAL = """\
[Journal]
Storage=volatile
RuntimeMaxUse=16M
ForwardToConsole=yes
MaxLevelConsole=info
"""

MANAGER = """\
[Manager]
DefaultTimeoutStartSec=120s
DefaultTimeoutStopSec=30s
"""


class Layer:
    """One host's own files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file where the host will see it."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)

    def link(self, path: str, to: str) -> None:
        """Put a symbolic link there."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(to)

    def want(self, unit: str, of: str) -> None:
        """Start a unit at boot, one of the distribution's or of this layer."""
        own = self.root / "etc/systemd/system" / unit
        place = "/etc" if own.exists() else "/usr/lib"
        self.link(f"etc/systemd/system/{of}.wants/{unit}", f"{place}/systemd/system/{unit}")

    def enable(self, unit: str) -> None:
        """`systemctl enable`, as the unit's own `[Install]` section has it."""
        call("systemctl", f"--root={self.root}", "--quiet", "enable", unit)

    def build(self, name: str, names: dict[str, str]) -> None:
        """Write what every host has; `names` are addresses by host, for /etc/hosts."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.write(f"{LAB}/own", "".join(f"{place}\n" for place in OWN))
        self.write(f"{LAB}/wanted", "".join(f"{unit}\n" for unit in WANTED))
        self.write(f"{LAB}/agent.py", (GUEST / "agent.py").read_text(encoding="utf-8"))
        self.write("etc/hostname", f"{name}\n")
        self.write(
            "etc/hosts",
            "127.0.0.1 localhost\n" + "".join(f"{at} {host}\n" for host, at in names.items()),
        )
        self.write("etc/machine-id", hashlib.sha256(name.encode()).hexdigest()[:32] + "\n")
        self.write("etc/fstab", "")
        self.write("etc/modules-load.d/lab.conf", "".join(f"{name}\n" for name in MODULES))
        self.write("etc/systemd/journald.conf.d/lab.conf", JOURNAL)
        self.write("etc/systemd/system.conf.d/lab.conf", MANAGER)
        self.write("etc/systemd/system/lab-agent.service", AGENT_UNIT)
        self.write("etc/systemd/system/lab-tmpfiles.service", TMPFILES_UNIT)
        self.want("lab-agent.service", of="sysinit.target")
        self.want("lab-tmpfiles.service", of="sysinit.target")
        self.link("etc/systemd/system/default.target", "/usr/lib/systemd/system/multi-user.target")
        for generator in sorted(GENERATORS.glob("*")):
            self.link(f"etc/systemd/system-generators/{generator.name}", "/dev/null")


def install_boot(directory: Path) -> Path:
    """Put the first process's script where hosts can read it, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "init"
    shutil.copyfile(GUEST / "init", target)
    target.chmod(0o755)
    return target
