"""Where a file's content lies on the volume beneath (FIEMAP, linux/fiemap.h).

Owns that question, and which answers mean what they seem to: a file system of ext4 or XFS on the
whole volume, extents with a fixed place, data that is not written to a journal first. Must not
change anything but write out what is dirty. Fails with PathRefusedError, HostError (not_found)
or OSError. Blocks.
"""

from __future__ import annotations

import fcntl
import struct
from pathlib import Path

from controller.api.changed import MAX_EXTENTS, Extent, FileExtents
from hostagent.errors import HostError
from hostagent.filesystem.host_namespace import run_on_host
from hostagent.filesystem.mounts import Mount, find_mount
from hostagent.looking.listing import opened_file
from hostagent.programs import need_program

FS_IOC_FIEMAP = 0xC020660B  # linux/fs.h: _IOWR('f', 11, struct fiemap)
FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h: _IOR('f', 1, long)
FS_JOURNAL_DATA_FL = 0x4000  # linux/fs.h
FIEMAP_FLAG_SYNC = 0x1
FIEMAP_EXTENT_LAST = 0x1
FIEMAP_EXTENT_UNWRITTEN = 0x800
FIEMAP_EXTENT_MERGED = 0x1000
FIEMAP_EXTENT_SHARED = 0x2000
_PLAIN = FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED | FIEMAP_EXTENT_SHARED
_HEAD = struct.Struct("=QQIIII")
"""Start, length, flags, extents mapped, room for extents, reserved."""
_EXTENT = struct.Struct("=QQQQQIIII")
"""Logical, physical, length, two reserved, flags, three reserved."""

_OPTIONS = Path("/proc/fs/ext4")
"""Of each mounted ext4 all options, also those that are its own defaults."""
_UNKNOWN = FileExtents(known=False)


def extents_of(root_fd: int, path: str) -> FileExtents:
    """The extents of a regular file of the file system that is mounted at `root_fd`."""
    mount = find_mount(Path(f"/proc/self/fd/{root_fd}").readlink())
    if mount is None or not places_are_offsets(mount):
        return _UNKNOWN
    with opened_file(root_fd, path) as (fd, _size):
        return _UNKNOWN if _journals_data(fd) else _mapped(fd)


def places_are_offsets(mount: Mount) -> bool:
    """Whether the file system's places are offsets on its device, and data is written there."""
    if mount.filesystem != "ext4":
        return mount.filesystem == "xfs"
    try:
        options = _options(_OPTIONS / Path(mount.source).name / "options")
    except (HostError, OSError):
        return False
    return "data=journal" not in options.split()


def _options(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        # A sandbox may have nothing but processes in /proc (systemd.exec(5), ProcSubset).
        return run_on_host([need_program("cat", "coreutils"), "--", str(path)])


def _journals_data(fd: int) -> bool:
    flags = bytearray(8)
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    except OSError:
        # A file system that doesn't know the question knows no such files.
        return False
    return bool(int.from_bytes(flags[:4], "little") & FS_JOURNAL_DATA_FL)


def _mapped(fd: int) -> FileExtents:
    room = MAX_EXTENTS + 1
    answer = bytearray(_HEAD.size + room * _EXTENT.size)
    _HEAD.pack_into(answer, 0, 0, (1 << 64) - 1, FIEMAP_FLAG_SYNC, 0, room, 0)
    try:
        fcntl.ioctl(fd, FS_IOC_FIEMAP, answer)
    except OSError:
        return _UNKNOWN
    count = _HEAD.unpack_from(answer, 0)[3]
    if count > MAX_EXTENTS:
        return _UNKNOWN
    found: list[Extent] = []
    for number in range(count):
        fields = _EXTENT.unpack_from(answer, _HEAD.size + number * _EXTENT.size)
        flags = fields[5]
        if flags & FIEMAP_EXTENT_UNWRITTEN:
            continue
        if flags & ~_PLAIN:
            return _UNKNOWN
        found.append(Extent(offset_bytes=fields[0], place_bytes=fields[1], length_bytes=fields[2]))
    return FileExtents(extents=found, known=True)
