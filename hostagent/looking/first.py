"""Host 1's answers about its own files: `fs.list`, `fs.digest` and `fs.extents`.

Owns the descriptor of the mounted file system, for the time of one answer. Must not change
anything there, nor hold it longer: a release would find it busy. Fails with RejectedError where
the volume isn't mounted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from controller.api import messages as m
from controller.api.changed import FileExtents, FsExtents
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import from_wire
from controller.api.looking import DigestInfo, FsDigest, FsEntries, FsList
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.looking.extents import extents_of
from hostagent.looking.listing import digest_range, list_directory, names_from
from hostagent.programs import Blocking

T = TypeVar("T")
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FirstFiles:
    """The files of the first volumes of this host."""

    def __init__(self, first: FirstVolumeKeeper, blocking: Blocking) -> None:
        self._first = first
        self._blocking = blocking

    async def list(self, params: FsList) -> FsEntries:
        """A directory's entries."""
        names = names_from(params.names) if params.names else None
        directory, after = from_wire(params.directory), from_wire(params.after)
        return await self._in(
            params.data_set, lambda root_fd: list_directory(root_fd, directory, names, after)
        )

    async def digest(self, params: FsDigest) -> DigestInfo:
        """A digest of a part of a file."""
        path = from_wire(params.path)
        return await self._in(
            params.data_set,
            lambda root_fd: digest_range(
                root_fd, path, params.offset_bytes, params.length_bytes
            ),
        )  # fmt: skip

    async def extents(self, params: FsExtents) -> FileExtents:
        """Where a file lies, with what is dirty of it written out."""
        path = from_wire(params.path)
        return await self._in(params.data_set, lambda root_fd: extents_of(root_fd, path))

    async def _in(self, data_set: str, work: Callable[[int], T]) -> T:
        shown: m.HostFs = await self._first.show(data_set)
        if not shown.mounted:
            why = f", it is released for {shown.released_for}" if shown.released_for else ""
            raise RejectedError(
                Code.WRONG_STATE,
                f"the first volume of '{data_set}' is not mounted at {shown.mountpoint}{why}",
                "mount it there, then ask again",
            )
        try:
            return await self._blocking.run(_in_root, Path(shown.mountpoint), work)
        except OSError as exc:
            self._first.raise_if_stopped(data_set, exc)
            raise


def _in_root(root: Path, work: Callable[[int], T]) -> T:
    root_fd = os.open(root, _ROOT)
    try:
        return work(root_fd)
    finally:
        os.close(root_fd)
