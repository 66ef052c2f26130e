"""Copying the named set onto the second volume.

Owns how a file gets to its place: complete and fsynced under a temporary name in the target's
own directory, then renamed over what is there, then the directory fsynced. A file that is the
same already is left alone. Must not delete: what the target has besides stays. A directory that
is named is merged, never replaced. Fails with HostError where a directory and a file stand
against each other, OSError otherwise; the target then holds whole files only, old or new, and a
repeated call removes the leftovers and goes on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from hostagent.copying.beneath import open_directory, parent_of, shown
from hostagent.copying.content import Work, copy_content, same_content
from hostagent.copying.metadata import (
    Metadata,
    apply_metadata,
    read_metadata,
    try_metadata,
)
from hostagent.copying.walk import Entry, entries
from hostagent.errors import HostError

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Copied:
    """What a copy did, in numbers."""

    files: int = 0
    unchanged: int = 0
    file_bytes: int = 0
    """Sizes of the regular files that were written."""


def leftovers_prefix(job: str) -> str:
    """What the temporary names of a job begin with."""
    return f".trilun-{job}-"


def copy_named(source_fd: int, target_fd: int, names: list[str], job: str, work: Work) -> Copied:
    """Copy named files, and directories with their content, from one root to the other.

    `names` are relative paths, none beneath another. Blocks; run it in a thread.
    """
    copier = _Copier(source_fd, target_fd, leftovers_prefix(job), work)
    try:
        for name in names:
            copier.make_parents(name)
            for entry in entries(source_fd, name):
                copier.take(entry)
        copier.finish_directories()
    finally:
        copier.close()
    return copier.copied


@dataclass(slots=True)
class _Copier:
    source_fd: int
    target_fd: int
    prefix: str
    work: Work
    copied: Copied = field(default_factory=Copied)
    _directories: list[str] = field(default_factory=list)
    """Those whose metadata is set at the end, because writing into them changes it."""
    _first_links: dict[int, str] = field(default_factory=dict)
    """Source inode to the first path it got on the target, for multiply linked files."""
    _claimed: set[int] = field(default_factory=set)
    """Target inodes that stand for one of the set already."""
    _number: int = 0
    _open: tuple[str, int] | None = None

    # -- directories

    def make_parents(self, name: str) -> None:
        """Make the directories above a named file that the target lacks, as the source has them."""
        missing = []
        above = parent_of(name)[0] if name else ""
        while above and self._target(above) is None:
            missing.append(above)
            above = parent_of(above)[0]
        for path in reversed(missing):
            directory, last = parent_of(path)
            source_dir = open_directory(self.source_fd, directory)
            try:
                metadata = read_metadata(source_dir, last)
            finally:
                os.close(source_dir)
            self._make_directory(path, metadata)
            self._directories.append(path)

    def _target(self, path: str) -> Metadata | None:
        directory, name = parent_of(path)
        try:
            dir_fd = open_directory(self.target_fd, directory)
        except FileNotFoundError:
            return None
        except NotADirectoryError as exc:
            raise _conflict(directory, "a file", "a directory") from exc
        try:
            return try_metadata(dir_fd, name)
        finally:
            os.close(dir_fd)

    def _make_directory(self, path: str, metadata: Metadata) -> None:
        dir_fd, name = self._place(path)
        temporary = self._temporary()
        os.mkdir(temporary, 0o700, dir_fd=dir_fd)
        apply_metadata(dir_fd, temporary, metadata)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def finish_directories(self) -> None:
        """Set the directories' metadata, deepest first, once nothing more is written in them."""
        for path in reversed(self._directories):
            directory, name = parent_of(path)
            source_dir = open_directory(self.source_fd, directory)
            target_dir = open_directory(self.target_fd, directory)
            try:
                name = name or "."
                wanted = read_metadata(source_dir, name)
                if wanted.differences(read_metadata(target_dir, name)):
                    apply_metadata(target_dir, name, wanted)
                os.fsync(target_dir)
            finally:
                os.close(source_dir)
                os.close(target_dir)

    # -- one file

    def take(self, entry: Entry) -> None:
        """Bring one file of the set over."""
        wanted = entry.metadata
        self.copied.files += 1
        if not entry.path:
            self._directories.append("")
            return
        dir_fd, name = self._place(entry.path)
        present = try_metadata(dir_fd, name)
        if wanted.kind == "directory":
            if present is None:
                self._make_directory(entry.path, wanted)
            elif present.kind != "directory":
                raise _conflict(entry.path, "a file", "a directory")
            self._directories.append(entry.path)
            return
        if present is not None and present.kind == "directory":
            raise _conflict(entry.path, "a directory", "a file")
        if wanted.links > 1 and wanted.inode in self._first_links:
            self._link(entry, dir_fd, name, present)
            return
        if present is not None and self._same(entry, dir_fd, name, present):
            self.copied.unchanged += 1
            self.work.did(wanted.size_bytes if wanted.kind == "file" else 0)
            inode = present.inode
        else:
            inode = self._replace(entry, dir_fd, name)
        self._claimed.add(inode)
        if wanted.links > 1:
            self._first_links[wanted.inode] = entry.path

    def _same(self, entry: Entry, dir_fd: int, name: str, present: Metadata) -> bool:
        wanted = entry.metadata
        if wanted.differences(present) or wanted.links != present.links:
            return False
        if wanted.links > 1 and present.inode in self._claimed:
            return False
        if wanted.kind == "symlink":
            return os.readlink(entry.name, dir_fd=entry.dir_fd) == os.readlink(name, dir_fd=dir_fd)
        if wanted.kind != "file":
            return True
        one = os.open(entry.name, _READ, dir_fd=entry.dir_fd)
        try:
            two = os.open(name, _READ, dir_fd=dir_fd)
            try:
                return same_content(one, two, wanted.size_bytes, self.work)
            finally:
                os.close(two)
        finally:
            os.close(one)

    def _replace(self, entry: Entry, dir_fd: int, name: str) -> int:
        wanted = entry.metadata
        temporary = self._temporary()
        if wanted.kind == "file":
            self._write_file(entry, dir_fd, temporary)
            self.copied.file_bytes += wanted.size_bytes
        elif wanted.kind == "symlink":
            to = os.readlink(entry.name, dir_fd=entry.dir_fd)
            os.symlink(to, temporary, dir_fd=dir_fd)
            apply_metadata(dir_fd, temporary, wanted)
        else:
            kind = stat.S_IFMT(wanted.mode)
            os.mknod(temporary, kind | 0o600, wanted.rdev, dir_fd=dir_fd)
            apply_metadata(dir_fd, temporary, wanted)
        inode = os.stat(temporary, dir_fd=dir_fd, follow_symlinks=False).st_ino
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return inode

    def _write_file(self, entry: Entry, dir_fd: int, temporary: str) -> None:
        wanted = entry.metadata
        source = os.open(entry.name, _READ, dir_fd=entry.dir_fd)
        try:
            target = os.open(temporary, _NEW, 0o600, dir_fd=dir_fd)
            try:
                sparse = wanted.allocated_bytes < wanted.size_bytes
                copy_content(source, target, wanted.size_bytes, sparse, self.work)
                apply_metadata(dir_fd, temporary, wanted)
                os.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _link(self, entry: Entry, dir_fd: int, name: str, present: Metadata | None) -> None:
        first = self._first_links[entry.metadata.inode]
        first_dir, first_name = parent_of(first)
        first_fd = open_directory(self.target_fd, first_dir)
        try:
            inode = os.stat(first_name, dir_fd=first_fd, follow_symlinks=False).st_ino
            if present is not None and present.inode == inode:
                # rename(2) of one link over another of the same file does nothing.
                self.copied.unchanged += 1
                return
            temporary = self._temporary()
            os.link(
                first_name,
                temporary,
                src_dir_fd=first_fd,
                dst_dir_fd=dir_fd,
                follow_symlinks=False,
            )
        finally:
            os.close(first_fd)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    # -- the target's directories

    def _place(self, path: str) -> tuple[int, str]:
        """The descriptor of a path's directory on the target, kept open for its neighbours."""
        directory, name = parent_of(path)
        if self._open is None or self._open[0] != directory:
            self.close()
            try:
                dir_fd = open_directory(self.target_fd, directory)
            except NotADirectoryError as exc:
                raise _conflict(directory, "a file", "a directory") from exc
            self._open = (directory, dir_fd)
            self._remove_leftovers(dir_fd)
        return self._open[1], name

    def close(self) -> None:
        """Make the open directory's names durable and let go of it."""
        if self._open is not None:
            dir_fd = self._open[1]
            self._open = None
            try:
                os.fsync(dir_fd)
            finally:
                os.close(dir_fd)

    def _remove_leftovers(self, dir_fd: int) -> None:
        for name in os.listdir(dir_fd):
            if not name.startswith(self.prefix):
                continue
            if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=dir_fd)
            else:
                os.unlink(name, dir_fd=dir_fd)

    def _temporary(self) -> str:
        self._number += 1
        return f"{self.prefix}{self._number}"


def _conflict(path: str, there: str, wanted: str) -> HostError:
    return HostError(
        f"'{shown(path)}' is {there} on the volume now and {wanted} in the backup",
        "rename what is there on host 1, then restore again",
    )
