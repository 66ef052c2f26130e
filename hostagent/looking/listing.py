"""Directories and files of one root as answers: entries, digests, pieces.

Owns how a file is described so that another host can compare it. Must not follow a link, leave
the root, or change anything: access times stay where the kernel lets us ask for that. Fails with
PathRefusedError, HostError (not_found) or OSError. Blocks.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from controller.api.codes import Code
from controller.api.file_names import from_wire, to_wire
from controller.api.looking import (
    MAX_DIGEST_BYTES,
    MAX_LISTED,
    MAX_PIECE_BYTES,
    DigestInfo,
    FsEntries,
    FsEntry,
)
from hostagent.copying.beneath import DIRECTORY_FLAGS, open_beneath, parent_of, shown
from hostagent.copying.metadata import Metadata, read_metadata, try_metadata
from hostagent.copying.walk import entries as walk
from hostagent.errors import HostError

READ_STEP_BYTES = 1 << 20
MAX_ENTRIES_BYTES = 1 << 20
"""Of one answer; a message has 4 MiB at most."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a file."""

    data: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Some files of one directory."""

    directory: str
    entries: list[FsEntry]


def list_directory(
    root_fd: int, directory: str, names: list[str] | None = None, after: str = ""
) -> FsEntries:
    """The entries of a directory, or of some names in it; the first `MAX_LISTED` after a name."""
    with _opened(root_fd, directory) as dir_fd:
        if names is None:
            with os.scandir(dir_fd) as scan:
                there = (one.name for one in scan)
                # Only as many names are kept as one answer has, however large the directory is.
                chosen = heapq.nsmallest(
                    MAX_LISTED + 1, (name for name in there if not after or name > after)
                )
        else:
            chosen = sorted(names)
        entries: list[FsEntry] = []
        size_bytes = 0
        for name in chosen[:MAX_LISTED]:
            metadata = try_metadata(dir_fd, name)
            if metadata is None:
                continue
            entry = _entry(dir_fd, name, metadata)
            size_bytes += len(entry.model_dump_json())
            if entries and size_bytes > MAX_ENTRIES_BYTES:
                return FsEntries(entries=entries, more=True)
            entries.append(entry)
        return FsEntries(entries=entries, more=len(chosen) > MAX_LISTED)


def batches(root_fd: int, names: list[str]) -> Iterator[Batch]:
    """The named set as entries, directory by directory, at most `MAX_LISTED` at a time."""
    directory, pending = "", list[FsEntry]()
    for name in names:
        for entry in walk(root_fd, name):
            above, last = parent_of(entry.path)
            if not last:
                continue
            if pending and (above != directory or len(pending) == MAX_LISTED):
                yield Batch(directory, pending)
                pending = []
            directory = above
            pending.append(_entry(entry.dir_fd, entry.name, entry.metadata))
    if pending:
        yield Batch(directory, pending)


def list_path(root_fd: int, path: str, after: str = "") -> FsEntries:
    """A directory's entries; of anything else itself, alone."""
    directory, name = parent_of(path)
    if not path:
        return list_directory(root_fd, "", after=after)
    with _opened(root_fd, directory) as dir_fd:
        metadata = try_metadata(dir_fd, name)
        if metadata is None:
            raise not_there(path)
        if metadata.kind != "directory":
            return FsEntries(entries=[_entry(dir_fd, name, metadata)], more=False, alone=True)
    return list_directory(root_fd, path, after=after)


def _entry(dir_fd: int, name: str, metadata: Metadata) -> FsEntry:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    link = os.readlink(name, dir_fd=dir_fd) if metadata.kind == "symlink" else ""
    return FsEntry(
        name=to_wire(name),
        mode=metadata.mode,
        uid=metadata.uid,
        gid=metadata.gid,
        size_bytes=metadata.size_bytes,
        mtime_ns=metadata.mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=metadata.inode,
        device=metadata.rdev,
        links=metadata.links,
        link_to=to_wire(link),
        xattrs={to_wire(key): hashlib.sha256(value).hexdigest() for key, value in metadata.xattrs},
    )


def metadata_of(entry: FsEntry) -> Metadata:
    """What of an entry is compared; attributes by their digests."""
    return Metadata(
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size_bytes=entry.size_bytes,
        allocated_bytes=entry.size_bytes,
        atime_ns=0,
        mtime_ns=entry.mtime_ns,
        rdev=entry.device,
        device=0,
        inode=entry.inode,
        links=entry.links,
        xattrs=tuple(sorted((name, value.encode()) for name, value in entry.xattrs.items())),
    )


def digest_range(root_fd: int, path: str, offset_bytes: int, length_bytes: int) -> DigestInfo:
    """SHA-256 of a part of a regular file."""
    assert length_bytes <= MAX_DIGEST_BYTES
    sha = hashlib.sha256()
    done = 0
    with opened_file(root_fd, path) as (fd, _size):
        while done < length_bytes:
            step = min(READ_STEP_BYTES, length_bytes - done)
            data = os.pread(fd, step, offset_bytes + done)
            if not data:
                break
            sha.update(data)
            done += len(data)
    return DigestInfo(length_bytes=done, digest=sha.hexdigest())


def read_piece(root_fd: int, path: str, offset_bytes: int) -> Piece:
    """One piece of a regular file; empty at its end and beyond."""
    with opened_file(root_fd, path) as (fd, size_bytes):
        data = bytearray()
        while len(data) < MAX_PIECE_BYTES:
            part = os.pread(fd, MAX_PIECE_BYTES - len(data), offset_bytes + len(data))
            if not part:
                break
            data += part
        return Piece(bytes(data), size_bytes)


@contextmanager
def _opened(root_fd: int, directory: str) -> Iterator[int]:
    try:
        try:
            dir_fd = open_beneath(root_fd, directory, DIRECTORY_FLAGS | os.O_NOATIME)
        except PermissionError:
            dir_fd = open_beneath(root_fd, directory, DIRECTORY_FLAGS)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise not_there(directory) from exc
    try:
        yield dir_fd
    finally:
        os.close(dir_fd)


@contextmanager
def opened_file(root_fd: int, path: str) -> Iterator[tuple[int, int]]:
    """A regular file's descriptor, and its size."""
    directory, name = parent_of(path)
    with _opened(root_fd, directory) as dir_fd:
        try:
            metadata = read_metadata(dir_fd, name or ".")
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise not_there(path) from exc
        if metadata.kind != "file":
            raise HostError(
                f"'{shown(path)}' is no regular file",
                f"list it with `trilun ls -l {shown(path)}`",
                Code.BAD_REQUEST,
            )
        try:
            fd = open_beneath(dir_fd, name, _FILE | os.O_NOATIME)
        except PermissionError:
            fd = open_beneath(dir_fd, name, _FILE)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise not_there(path)
            yield fd, status.st_size
        finally:
            os.close(fd)


def not_there(path: str) -> HostError:
    """The error for a path that isn't there."""
    return HostError(f"there is no '{shown(path)}'", "look with `trilun ls`", Code.NOT_FOUND)


def names_from(wire: list[str]) -> list[str]:
    """Names of one directory as they came; raises HostError for one that is a path."""
    names = [from_wire(name) for name in wire]
    if any("/" in name or "\0" in name or name in {"", ".", ".."} for name in names):
        raise HostError("names hold a '/' or are no names", "", Code.BAD_REQUEST)
    return names
