"""What the volume has differently from the backup, before anything is copied.

Owns the rule: a file is changed when its kind or its metadata differ and, where those say the
same, when its content does. A directory that is one on both sides is none: it is merged. Must
not change anything. Fails with HostError or OSError.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hostagent.copying.beneath import open_directory, parent_of
from hostagent.copying.content import Work, same_content
from hostagent.copying.metadata import Kind, Metadata, try_metadata
from hostagent.copying.placing import Placing
from hostagent.copying.walk import Entry, entries

MAX_CONFLICTS = 10_000
"""Changed files that are remembered one by one."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_AS: dict[Kind, str] = {
    "file": "a file now",
    "directory": "a directory now",
    "symlink": "a link now",
    "other": "a special file now",
}


@dataclass(frozen=True, slots=True)
class Changed:
    """One file that the volume has differently; `path` is the backup's."""

    path: str
    changed: str


@dataclass(slots=True)
class Compared:
    """What a comparison found; at most `limit` of the changed files are listed."""

    limit: int
    changed: list[Changed] = field(default_factory=list)
    changed_count: int = 0
    same_count: int = 0
    absent_count: int = 0

    def note(self, path: str, changed: str | None) -> None:
        """Count a file: None where the volume has none, empty where it is the same."""
        if changed is None:
            self.absent_count += 1
        elif not changed:
            self.same_count += 1
        else:
            self.changed_count += 1
            if len(self.changed) < self.limit:
                self.changed.append(Changed(path, changed))


def compare_named(
    source_fd: int, target_fd: int, names: list[str], placing: Placing, limit: int, work: Work
) -> Compared:
    """Compare the named set with what is in its place. Blocks; reads content where it has to."""
    compared = Compared(limit)
    for name in names:
        for entry in entries(source_fd, name):
            work.did(0)
            with _directory(target_fd, parent_of(placing.at(entry.path))[0]) as dir_fd:
                last = parent_of(placing.at(entry.path))[1] or "."
                present = None if dir_fd is None else try_metadata(dir_fd, last)
                if dir_fd is None or present is None:
                    compared.note(entry.path, None)
                else:
                    compared.note(entry.path, difference(entry, dir_fd, last, present, work))
    return compared


def difference(
    entry: Entry, dir_fd: int, name: str, present: Metadata, work: Work, *, read: bool = True
) -> str:
    """How a file differs from the backup's, in words; empty when it is the same.

    Without `read` content is taken to be the same where everything else is.
    """
    wanted = entry.metadata
    if wanted.kind != present.kind:
        return _AS[present.kind]
    if wanted.kind == "directory":
        return ""
    found = wanted.differences(present)
    if found:
        return ", ".join(found)
    if wanted.kind == "symlink":
        points = os.readlink(entry.name, dir_fd=entry.dir_fd)
        return "" if os.readlink(name, dir_fd=dir_fd) == points else "where the link points"
    if wanted.kind != "file" or not read:
        return ""
    one = os.open(entry.name, _READ, dir_fd=entry.dir_fd)
    try:
        two = os.open(name, _READ, dir_fd=dir_fd)
        try:
            same = same_content(one, two, wanted.size_bytes, work)
        finally:
            os.close(two)
    finally:
        os.close(one)
    return "" if same else "content"


@contextmanager
def _directory(root_fd: int, path: str) -> Iterator[int | None]:
    """A directory of the volume, or None when it has none of that name."""
    try:
        dir_fd = open_directory(root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield dir_fd
    finally:
        os.close(dir_fd)
