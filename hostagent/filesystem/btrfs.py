"""What btrfs needs besides a mount: two copies of one file system share their id.

Owns reading a superblock's id and the rule that older kernels must not see a twin: before Linux
6.7 (in-memory ids for single devices) a second device with the same id can replace the mounted
one behind everybody's back. Fails with HostError. Blocks.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

from hostagent.errors import HostError
from hostagent.programs import find_program, run_program

SUPERBLOCK_BYTES = 65536
_FSID = slice(32, 48)
_MAGIC = slice(64, 72)
_TEMPORARY_IDS_SINCE = (6, 7)
_MOUNTED = Path("/sys/fs/btrfs")


def filesystem_id(device: Path) -> str | None:
    """The id in the primary superblock, as the kernel spells it; None when it isn't btrfs."""
    with device.open("rb") as file:
        file.seek(SUPERBLOCK_BYTES)
        block = file.read(4096)
    if block[_MAGIC] != b"_BHRfS_M":
        return None
    return str(uuid.UUID(bytes=block[_FSID]))


def refuse_twin(device: Path, release: str | None = None, mounted: Path = _MOUNTED) -> None:
    """Raise HostError when mounting `device` would meet its twin on a kernel that mixes them up."""
    found = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    fsid = filesystem_id(device)
    if version >= _TEMPORARY_IDS_SINCE or fsid is None or not (mounted / fsid).exists():
        return
    raise HostError(
        f"another copy of the btrfs {fsid} is mounted, and this kernel mixes them up",
        "run the agent of host 2 on Linux 6.7 or newer",
    )


def forget(device: Path) -> None:
    """Make the kernel forget an unmounted device, so that nothing of it is taken for its twin."""
    program = find_program("btrfs")
    if program is not None and _MOUNTED.exists():
        # 1: it doesn't know the device.
        argv = [program, "device", "scan", "--forget", str(device)]
        run_program(argv, ok=frozenset({0, 1}))
