"""Whether a named set is all there is: then a restore of the whole volume brings back the same.

Owns the comparison of two trees by name. Must not look at content: what the backup has comes back
anyway. It is no whole volume as soon as the volume has anything that the backup doesn't. Fails
with OSError.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Self

from hostagent.copying.beneath import open_directory, parent_of
from hostagent.copying.content import Work
from hostagent.copying.metadata import read_metadata
from hostagent.copying.walk import entries

LOST_AND_FOUND = "lost+found"
"""Made by the file system, and not a file of anybody's."""


def all_of_backup(backup_fd: int, names: list[str]) -> bool:
    """Whether everything in the backup was named, itself or by a directory above it."""
    if "" in names:
        return True
    return set(os.listdir(backup_fd)) <= {*names, LOST_AND_FOUND}


def all_there_is(backup_fd: int, volume_fd: int, names: list[str], work: Work) -> bool:
    """Whether everything in both trees was named, and the volume has nothing else.

    Blocks; run it in a thread.
    """
    if not all_of_backup(backup_fd, names):
        return False
    with _Finder(backup_fd) as backup:
        for entry in entries(volume_fd, ""):
            work.did(0)
            known = entry.path in ("", LOST_AND_FOUND)
            if not known and backup.kind(entry.path) != entry.metadata.kind:
                return False
    return True


class _Finder:
    """Looks paths up; the last one's directory stays open, since the next is mostly beside it."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._directory: str | None = None
        self._fd = -1
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def kind(self, path: str) -> str:
        """The kind of file a path is; empty when it isn't there."""
        directory, name = parent_of(path)
        try:
            if directory != self._directory:
                self._open.close()
                self._directory = None
                self._fd = open_directory(self._root_fd, directory)
                self._open.callback(os.close, self._fd)
                self._directory = directory
            return read_metadata(self._fd, name).kind
        except (FileNotFoundError, NotADirectoryError):
            return ""
