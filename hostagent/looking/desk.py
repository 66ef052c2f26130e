"""The answers to who looks into a backup: lists, pieces of files, differences to now.

Owns the verbs `look.*`. Must not open or close a view. Each answer is bounded, whatever is
looked at. Fails with RejectedError.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from controller.api import messages as m
from controller.api.changed import FileExtents
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import from_wire
from controller.api.looking import DigestInfo, FsEntries, LookDiff, LookList, LookPiece, LookRead
from hostagent.copying.beneath import requested_path, shown
from hostagent.jobs.ports import Nodes
from hostagent.looking.differences import DirectoryDiff
from hostagent.looking.extents import extents_of
from hostagent.looking.listing import Piece, digest_range, list_path, read_piece
from hostagent.looking.marks import suspects_of
from hostagent.looking.now import NowFiles
from hostagent.looking.rooms import Reading, Room, Rooms
from hostagent.programs import Blocking

T = TypeVar("T")
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LookDesk:
    """Answers for all rooms."""

    def __init__(self, rooms: Rooms, blocking: Blocking, nodes: Nodes) -> None:
        self._rooms = rooms
        self._blocking = blocking
        self._nodes = nodes

    async def list(self, params: LookList) -> FsEntries:
        """A directory's entries; of anything else itself."""
        with self._rooms.visit(params.job) as room:
            path, after = _path(room, params.path), from_wire(params.after)
            return await self._in(room, lambda fd: list_path(fd, path, after))

    async def read(self, params: LookRead) -> LookPiece:
        """A piece of a file."""
        with self._rooms.visit(params.job) as room:
            path = _path(room, params.path)
            piece: Piece = await self._in(
                room, lambda fd: read_piece(fd, path, params.offset_bytes)
            )  # fmt: skip
            if piece.size_bytes > params.max_bytes:
                raise RejectedError(
                    Code.WRONG_STATE,
                    f"'{shown(path)}' has {piece.size_bytes} bytes, more than {params.max_bytes}",
                    f"allow it with --max-bytes {piece.size_bytes}, "
                    "or bring it back beside the original with `trilun restore --to DIR`",
                )
            digest = _told(room, path, params.offset_bytes, piece)
        return LookPiece(
            data=base64.b64encode(piece.data).decode("ascii"),
            offset_bytes=params.offset_bytes,
            size_bytes=piece.size_bytes,
            digest=digest,
        )

    async def diff(self, params: LookDiff) -> m.Differences:
        """One directory of the backup, compared with the first volume as it is now."""
        with self._rooms.visit(params.job) as room:
            path, after = _path(room, params.path), from_wire(params.after)

            async def ask(verb: str, asked: m.Params) -> m.Info:
                return await self._nodes.call(room.host1, verb, asked, None)

            async def page(after: str) -> FsEntries:
                return await self._in(room, lambda fd: list_path(fd, path, after))

            async def digest(name: str, offset_bytes: int, length_bytes: int) -> DigestInfo:
                return await self._in(
                    room, lambda fd: digest_range(fd, name, offset_bytes, length_bytes)
                )

            async def lies(name: str) -> FileExtents:
                return await self._in(room, lambda fd: extents_of(fd, name))

            now = NowFiles(room.data_set, ask)
            marked = partial(suspects_of, self._nodes, room.marks, lies, now)
            return await DirectoryDiff(path, page, digest, now, marked).run(after)

    async def _in(self, room: Room, work: Callable[[int], T]) -> T:
        return await self._blocking.run(_in_root, room.root, work)


def _path(room: Room, text: str) -> str:
    return requested_path(from_wire(text), room.mountpoint)


def _in_root(root: Path, work: Callable[[int], T]) -> T:
    root_fd = os.open(root, _ROOT)
    try:
        return work(root_fd)
    finally:
        os.close(root_fd)


def _told(room: Room, path: str, offset_bytes: int, piece: Piece) -> str:
    """Count a piece towards the file's digest; the digest, with the last one.

    Empty where the pieces were not asked for in order.
    """
    reading = room.reading
    if offset_bytes == 0:
        sha = hashlib.sha256()
    elif reading is None or reading.path != path:
        return ""
    elif reading.offset_bytes == offset_bytes:
        sha = reading.digest
    elif reading.before[0] == offset_bytes:
        sha = reading.before[1]
    else:
        return ""
    before = (offset_bytes, sha.copy())
    sha = sha.copy()
    sha.update(piece.data)
    end_bytes = offset_bytes + len(piece.data)
    room.reading = Reading(path, end_bytes, sha, before)
    return sha.hexdigest() if end_bytes >= piece.size_bytes else ""
