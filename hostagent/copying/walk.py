"""Going through the named set of a source tree, one directory at a time.

Owns the order (parents first, names sorted) and the search for missing names. Must not change
anything. Memory is bounded by the directories and the multiply linked files, not by the files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from hostagent.copying.beneath import joined, open_directory, parent_of, shown
from hostagent.copying.content import Work
from hostagent.copying.metadata import Kind, Metadata, read_metadata
from hostagent.errors import HostError

MAX_LISTED = 1000
"""Files named one by one in a plan or receipt; the sums always cover all of them."""


MAX_LISTED_BYTES = 512 << 10
"""Of their paths together: a receipt has to fit into one message."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file as plans and receipts name it."""

    path: str
    kind: Kind
    size_bytes: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What the named set comes to, before anything is copied."""

    named: list[Listed]
    """At most `MAX_LISTED` of the files that were asked for; a directory has its content's size."""
    missing: list[str]
    file_bytes: int
    """Sum of the sizes of all regular files, hard links counted once."""
    files: int
    names: list[str]
    """Everything that was asked for, patterns expanded, as far as it is there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the set, with the descriptor of its directory (open until the next one)."""

    path: str
    dir_fd: int
    name: str
    metadata: Metadata


def entries(root_fd: int, named: str) -> Iterator[Entry]:
    """A named file and, if it is a directory, everything in it, parents first.

    Raises FileNotFoundError or NotADirectoryError when the name isn't there, PathRefusedError
    when the way to it leads through a link.
    """
    if named:
        directory, name = parent_of(named)
        dir_fd = open_directory(root_fd, directory)
        try:
            metadata = read_metadata(dir_fd, name)
            yield Entry(named, dir_fd, name, metadata)
        finally:
            os.close(dir_fd)
        if metadata.kind != "directory":
            return
    else:
        yield Entry("", root_fd, ".", read_metadata(root_fd, "."))
    yield from _inside(root_fd, named)


def _inside(root_fd: int, top: str) -> Iterator[Entry]:
    pending = [top]
    while pending:
        directory = pending.pop()
        dir_fd = open_directory(root_fd, directory)
        below = []
        try:
            for name in sorted(os.listdir(dir_fd)):  # noqa: PTH208 - by descriptor
                metadata = read_metadata(dir_fd, name)
                path = joined(directory, name)
                yield Entry(path, dir_fd, name, metadata)
                if metadata.kind == "directory":
                    below.append(path)
        finally:
            os.close(dir_fd)
        pending.extend(reversed(below))


def find(root_fd: int, names: list[str], work: Work) -> Found:
    """Look for every named file; raises PathRefusedError for a way through a link."""
    named: list[Listed] = []
    there: list[str] = []
    missing: list[str] = []
    seen: set[tuple[int, int]] = set()
    total_bytes = files = 0
    for name in names:
        own_bytes = 0
        first: Metadata | None = None
        try:
            for entry in entries(root_fd, name):
                work.did(0)
                first = first or entry.metadata
                files += 1
                own_bytes += _counted(entry.metadata, seen)
        except (FileNotFoundError, NotADirectoryError) as exc:
            if first is not None:
                raise HostError(f"the backup changed while it was read: {exc}") from exc
            missing.append(shown(name))
            continue
        assert first is not None
        total_bytes += own_bytes
        there.append(name)
        if len(named) < MAX_LISTED:
            size = own_bytes if first.kind == "directory" else _size(first)
            named.append(Listed(shown(name), first.kind, size))
    return Found(named, missing, total_bytes, files, there)


def _size(metadata: Metadata) -> int:
    return metadata.size_bytes if stat.S_ISREG(metadata.mode) else 0


def _counted(metadata: Metadata, seen: set[tuple[int, int]]) -> int:
    if metadata.kind != "file":
        return 0
    if metadata.links > 1:
        identity = (metadata.device, metadata.inode)
        if identity in seen:
            return 0
        seen.add(identity)
    return metadata.size_bytes
