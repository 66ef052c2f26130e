"""Copying the named set onto the second volume.

Owns how a file gets to its place: complete and fsynced under a temporary name in the target's
own directory, then renamed over what is there, then the directory fsynced. A file that is the
same already is left alone; what had changed is overwritten, left, or kept under another name
first, as the placing says. Must not delete: what the target has besides stays. A directory that
is named is merged, never replaced. Fails with HostError where a directory and a file stand
against each other, OSError otherwise; the target then holds whole files only, old or new, and a
repeated call removes the leftovers and goes on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from controller.api.restores import Conflict
from hostagent.copying.beneath import open_directory, parent_of, shown
from hostagent.copying.comparing import difference
from hostagent.copying.content import Work, copy_content
from hostagent.copying.metadata import (
    Metadata,
    apply_metadata,
    read_metadata,
    try_metadata,
)
from hostagent.copying.placing import Placing
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


def copy_named(
    source_fd: int, target_fd: int, names: list[str], placing: Placing, work: Work
) -> Copied:
    """Copy named files, and directories with their content, from one root to the other.

    `names` are relative paths, none beneath another. Blocks; run it in a thread.
    """
    copier = _Copier(source_fd, target_fd, placing, leftovers_prefix(placing.job), work)
    try:
        copier.make_place()
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
    placing: Placing
    prefix: str
    work: Work
    copied: Copied = field(default_factory=Copied)
    _directories: list[str] = field(default_factory=list)
    """Those whose metadata is set at the end, because writing into them changes it."""
    _first_links: dict[int, str] = field(default_factory=dict)
    """Source inode to the first of its paths that was brought over, where there are several."""
    _claimed: set[int] = field(default_factory=set)
    """Target inodes that stand for one of the set already."""
    _number: int = 0
    _open: tuple[str, int] | None = None

    # -- directories

    def make_place(self) -> None:
        """Make the directory that gets the files, where they don't go to their own places."""
        missing = []
        above = self.placing.to
        while above and self._target(above) is None:
            missing.append(above)
            above = parent_of(above)[0]
        for path in reversed(missing):
            dir_fd, name = self._place(path)
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            # Not by mkdir: the agent's umask keeps everybody else out.
            os.chmod(name, 0o755, dir_fd=dir_fd)  # noqa: S103

    def make_parents(self, name: str) -> None:
        """Make the directories above a named file that the target lacks, as the source has them."""
        missing = []
        above = parent_of(name)[0] if name else ""
        while above and self._target(self.placing.at(above)) is None:
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
        dir_fd, name = self._place(self.placing.at(path))
        temporary = self._temporary()
        os.mkdir(temporary, 0o700, dir_fd=dir_fd)
        apply_metadata(dir_fd, temporary, metadata)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def finish_directories(self) -> None:
        """Set the directories' metadata, deepest first, once nothing more is written in them."""
        for path in reversed(self._directories):
            source_dir, name = self._open_above(self.source_fd, path)
            target_dir, placed = self._open_above(self.target_fd, self.placing.at(path))
            try:
                wanted = read_metadata(source_dir, name)
                if wanted.differences(read_metadata(target_dir, placed)):
                    apply_metadata(target_dir, placed, wanted)
                os.fsync(target_dir)
            finally:
                os.close(source_dir)
                os.close(target_dir)

    @staticmethod
    def _open_above(root_fd: int, path: str) -> tuple[int, str]:
        directory, name = parent_of(path)
        return open_directory(root_fd, directory), name or "."

    # -- one file

    def take(self, entry: Entry) -> None:
        """Bring one file of the set over."""
        wanted = entry.metadata
        if self.placing.skips(entry.path):
            self.work.did(wanted.size_bytes if wanted.kind == "file" else 0)
            return
        self.copied.files += 1
        if not self.placing.at(entry.path):
            self._take_directory(entry.path, wanted, present=wanted)
            return
        dir_fd, name = self._place(self.placing.at(entry.path))
        present = try_metadata(dir_fd, name)
        if wanted.kind == "directory":
            if present is not None and present.kind != "directory":
                self._make_way(entry, dir_fd, name, present)
                present = None
            self._take_directory(entry.path, wanted, present)
            return
        if present is not None and present.kind == "directory":
            self._make_way(entry, dir_fd, name, present)
            present = None
        if wanted.links > 1 and wanted.inode in self._first_links:
            self._link(entry, dir_fd, name, present)
            return
        if present is not None and self._same(entry, dir_fd, name, present):
            self.copied.unchanged += 1
            self.work.did(wanted.size_bytes if wanted.kind == "file" else 0)
            inode = present.inode
        else:
            inode = self._replace(entry, dir_fd, name, present)
        self._claimed.add(inode)
        if wanted.links > 1:
            self._first_links[wanted.inode] = entry.path

    def _take_directory(self, path: str, wanted: Metadata, present: Metadata | None) -> None:
        if present is None:
            self._make_directory(path, wanted)
        elif self.placing.policy is Conflict.SKIP:
            # Its own metadata has changed with whatever changed in it, and stays, too.
            return
        self._directories.append(path)

    def _make_way(self, entry: Entry, dir_fd: int, name: str, present: Metadata) -> None:
        """Set what is there aside, or refuse: overwriting never removes a whole directory."""
        if not self.placing.keeps(entry.path):
            there, wanted = "a file", "a directory"
            if present.kind == "directory":
                there, wanted = wanted, there
            raise _conflict(self.placing.at(entry.path), there, wanted)
        self._set_aside(entry, dir_fd, name, present)

    def _set_aside(self, entry: Entry, dir_fd: int, name: str, present: Metadata) -> None:
        """Give what has changed its other name; it may have it since an earlier attempt."""
        kept = self.placing.kept_name(name)
        before = try_metadata(dir_fd, kept)
        if before is not None and before.inode != present.inode:
            raise HostError(
                f"'{shown(kept)}' is there already",
                "rename it on host 1, or restore with another policy for conflicts",
            )
        if present.kind == "directory":
            os.rename(name, kept, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        elif before is None:
            # A second link first: the name is never without a file.
            os.link(name, kept, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        if present.kind != "directory" and entry.metadata.kind == "directory":
            os.unlink(name, dir_fd=dir_fd)

    def _same(self, entry: Entry, dir_fd: int, name: str, present: Metadata) -> bool:
        wanted = entry.metadata
        if wanted.links != present.links:
            return False
        if wanted.links > 1 and present.inode in self._claimed:
            return False
        # Nobody else writes here since the comparison.
        read = not self.placing.compared or entry.path in self.placing.changed
        return not difference(entry, dir_fd, name, present, self.work, read=read)

    def _replace(self, entry: Entry, dir_fd: int, name: str, present: Metadata | None) -> int:
        wanted = entry.metadata
        if present is not None and self.placing.keeps(entry.path):
            self._set_aside(entry, dir_fd, name, present)
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
        first_dir, first_name = parent_of(self.placing.at(first))
        first_fd = open_directory(self.target_fd, first_dir)
        try:
            inode = os.stat(first_name, dir_fd=first_fd, follow_symlinks=False).st_ino
            if present is not None and present.inode == inode:
                # rename(2) of one link over another of the same file does nothing.
                self.copied.unchanged += 1
                return
            if present is not None and self.placing.keeps(entry.path):
                self._set_aside(entry, dir_fd, name, present)
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
