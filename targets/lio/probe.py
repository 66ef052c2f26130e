"""Whether this machine's kernel can be a target for us, and if not, why.

Owns the checks and the loading of modules. A shell; blocking. Must not change the target's
configuration. Fails with `LioUnavailableError`: one sentence with the next step.

Modules are loaded with rtslib-fb, which knows both ways of doing it. Its `RTSRoot` isn't used:
making one sets the kernel's `dbroot` for everybody on the machine.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rtslib_fb.utils import RTSLibError, modprobe

from targets.lio.layout import TcmuError
from targets.lio.tree import CONFIGFS_TARGET

MODULES = ("target_core_mod", "target_core_user", "iscsi_target_mod")
_CONFIGFS = CONFIGFS_TARGET.parent
_TCMU_SWITCH = Path("/sys/module/target_core_user/parameters/block_netlink")
"""Came with Linux 4.19, as did what a takeover needs: block_dev and reset_ring."""
_STATE_FOLDERS = ("pr", "alua")


class LioUnavailableError(TcmuError):
    """The kernel's target can't be used here."""


def check() -> list[str]:
    """Load what has to be loaded; raises `LioUnavailableError`.

    Returns sentences on what will be missing although the target works.
    """
    if not _CONFIGFS.is_mount():
        _load("configfs")
        _mount_configfs()
    for module in MODULES:
        _load(module)
    if not (CONFIGFS_TARGET / "core").is_dir():
        raise LioUnavailableError(
            f"{CONFIGFS_TARGET}/core is missing; install a kernel with CONFIG_TARGET_CORE"
        )
    if not _writable(CONFIGFS_TARGET / "core"):
        raise LioUnavailableError(
            f"no right to write to {CONFIGFS_TARGET}; run as root, or with CAP_DAC_OVERRIDE and "
            "a writable /sys/kernel/config"
        )
    if not _TCMU_SWITCH.exists():
        raise LioUnavailableError(
            f"Linux {os.uname().release} has no TCMU that can be taken over; use 4.19 or later"
        )
    return _state_folders()


def _mount_configfs() -> None:
    if _CONFIGFS.is_mount():
        return
    if not _CONFIGFS.is_dir():
        raise LioUnavailableError("the kernel has no configfs; install one with CONFIG_CONFIGFS_FS")
    command = ["mount", "-t", "configfs", "configfs", str(_CONFIGFS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode and not _CONFIGFS.is_mount():
        raise LioUnavailableError(
            f"configfs is not mounted; as root: mount -t configfs configfs {_CONFIGFS}"
        )


def _load(module: str) -> None:
    """Load a module that isn't there; one that is built in is there."""
    if Path("/sys/module", module).is_dir() or (module == "configfs" and _CONFIGFS.is_dir()):
        return
    try:
        modprobe(module)
    except (RTSLibError, OSError) as error:
        why = " ".join(str(error).split()) or "modprobe failed"
        if isinstance(error, FileNotFoundError):  # /proc/modules
            why = "this kernel loads no modules"
        step = (
            "install a kernel that has it" if os.geteuid() == 0 else f"as root: modprobe {module}"
        )
        raise LioUnavailableError(
            f"the kernel module {module} can't be loaded ({why}); {step}"
        ) from error


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _state_folders() -> list[str]:
    """The kernel keeps persistent reservations in files; without their folder it refuses them."""
    root = Path((CONFIGFS_TARGET / "dbroot").read_text().strip() or "/var/target")
    missing: list[str] = []
    for name in _STATE_FOLDERS:
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            missing.append(str(root / name))
    if not missing:
        return []
    return [f"hosts can't make persistent reservations: as root: mkdir -p {' '.join(missing)}"]
