"""Reading back what was copied, and comparing it with the source from scratch.

Owns the proof: content by SHA-256, metadata, link targets, and that hard links of the set are
the same file exactly where the source's are. Must not trust what the copy remembered, nor the
page cache: the caller drops what is cached beneath the file system, this drops the files' pages.
Fails with `HostError` naming the first file that differs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from controller.api.restores import Conflict
from hostagent.copying.beneath import open_directory, parent_of, shown
from hostagent.copying.content import Work, digest
from hostagent.copying.metadata import Metadata, try_metadata
from hostagent.copying.placing import Placing
from hostagent.copying.walk import MAX_LISTED, MAX_LISTED_BYTES, Entry, Listed, entries
from hostagent.errors import HostError

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Verified:
    """The files that came back."""

    files: list[Listed]
    """At most `MAX_LISTED`, and `MAX_LISTED_BYTES` of paths."""
    file_bytes: int = 0
    """Sizes of all regular files of the set, hard links counted once."""
    read_bytes: int = 0
    files_count: int = 0
    """All that came back, those that are not listed included."""


def verify_named(
    source_fd: int, target_fd: int, names: list[str], placing: Placing, work: Work
) -> Verified:
    """Compare the named set on both sides; raises HostError at the first difference.

    What the placing skips is not looked at, and directories keep their metadata then.
    """
    verified = Verified([])
    listed_bytes = 0
    pairs: dict[int, int] = {}
    back: dict[int, int] = {}
    for name in names:
        for entry in entries(source_fd, name):
            if placing.skips(entry.path):
                continue
            directory, last = parent_of(placing.at(entry.path))
            target_dir = open_directory(target_fd, directory)
            try:
                present = try_metadata(target_dir, last or ".")
                if present is None:
                    raise _differs(entry.path, "it is not there")
                found = _differences(entry.metadata, present, placing)
                if found:
                    raise _differs(entry.path, ", ".join(found))
                new = _paired(entry, present, pairs, back)
                listed = _compare(entry, target_dir, last, verified if new else None, work)
            finally:
                os.close(target_dir)
            verified.files_count += 1
            listed_bytes += len(listed.path.encode())
            if len(verified.files) < MAX_LISTED and listed_bytes < MAX_LISTED_BYTES:
                verified.files.append(listed)
    return verified


def _differences(wanted: Metadata, present: Metadata, placing: Placing) -> list[str]:
    if placing.policy is Conflict.SKIP and wanted.kind == present.kind == "directory":
        return []
    return wanted.differences(present)


def _paired(entry: Entry, present: Metadata, pairs: dict[int, int], back: dict[int, int]) -> bool:
    """Check that links are links; False when this file's content was compared already."""
    if entry.metadata.kind == "directory" or max(entry.metadata.links, present.links) == 1:
        return True
    known = entry.metadata.inode in pairs
    expected = pairs.setdefault(entry.metadata.inode, present.inode)
    if expected != present.inode or back.setdefault(present.inode, entry.metadata.inode) != (
        entry.metadata.inode
    ):
        raise _differs(entry.path, "its hard links")
    return not known


def _compare(
    entry: Entry, target_dir: int, name: str, verified: Verified | None, work: Work
) -> Listed:
    kind = entry.metadata.kind
    if kind == "symlink":
        wanted = os.readlink(entry.name, dir_fd=entry.dir_fd)
        if os.readlink(name, dir_fd=target_dir) != wanted:
            raise _differs(entry.path, "where the link points")
    if kind != "file":
        return Listed(shown(entry.path), kind, 0)
    size = entry.metadata.size_bytes
    if verified is None:
        return Listed(shown(entry.path), kind, size)
    expected = _digest_of(entry.dir_fd, entry.name, size, Work(lambda _: None, work.cancelled))
    actual = _digest_of(target_dir, name, size, work, drop=True)
    if expected != actual:
        raise _differs(entry.path, "its content")
    verified.file_bytes += size
    verified.read_bytes += size
    return Listed(shown(entry.path), kind, size, actual)


def _digest_of(dir_fd: int, name: str, size_bytes: int, work: Work, drop: bool = False) -> str:
    fd = os.open(name, _READ, dir_fd=dir_fd)
    try:
        if drop:
            # Only clean pages can be dropped.
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return digest(fd, size_bytes, work)
    finally:
        os.close(fd)


def _differs(path: str, what: str) -> HostError:
    return HostError(
        f"'{shown(path)}' on the second volume differs from the backup: {what}",
        "look at the second volume's health, then restore again",
    )
