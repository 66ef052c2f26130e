"""What the machine needs for the lab, and the sentence that says what it lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deploy.labs.problem import LabError
from deploy.labs.process import PATH

PROGRAMS = {
    "linux.uml": "user-mode-linux",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "taskset": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "switch_root": "util-linux",
    "insmod": "kmod",
    "/lib/systemd/systemd": "systemd",
    "systemctl": "systemd",
    "/lib/systemd/systemd-udevd": "udev",
    "/usr/bin/python3": "python3",
    "cc": "gcc",
}
LAB_PROGRAMS = {
    "mosquitto": "mosquitto",
    "iscsid": "open-iscsi",
    "iscsiadm": "open-iscsi",
    "mkfs.xfs": "xfsprogs",
    "fio": "fio",
    "tc": "iproute2",
}
C_HEADER = Path("/usr/include/elf.h")
TUN = Path("/dev/net/tun")


def missing(programs: dict[str, str]) -> list[str]:
    """Debian packages to install."""
    packages = {
        package for name, package in programs.items() if shutil.which(name, path=PATH) is None
    }
    return sorted(packages)


def check(*, whole_lab: bool = False) -> None:
    """LabError when a lab can't be had here."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root, for its network and the machine's files", "use sudo")
    packages = missing({**PROGRAMS, **(LAB_PROGRAMS if whole_lab else {})})
    if not C_HEADER.exists():
        packages.append("libc6-dev")
    if packages:
        raise LabError(
            f"the lab lacks Debian packages: {', '.join(packages)}", "deploy/setup tools lab"
        )
    if not TUN.exists():
        raise LabError("this machine has no /dev/net/tun", "load it: modprobe tun")
