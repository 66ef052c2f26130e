"""Backups that are open to be looked at: a room a job, for as long as somebody looks.

Owns when a room closes: on demand, or when nobody has asked for anything for `IDLE_S`. Must not
mount or unmount: the room's job does, in its steps and their undo. Fails with RejectedError for
a room that isn't open.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.jobs.ports import Clock
from hostagent.looking.marks import Marks

IDLE_S = 60.0
"""A client that says nothing for so long is taken for dead."""


@dataclass(slots=True)
class Reading:
    """A file that is read piece by piece, and the digest of what went out."""

    path: str
    offset_bytes: int
    digest: hashlib._Hash
    before: tuple[int, hashlib._Hash]
    """One piece back: a piece whose answer got lost is asked for again."""


@dataclass(slots=True)
class Room:
    """One open backup."""

    job: str
    data_set: str
    mountpoint: PurePosixPath
    """Where host 1 has the volume: operators name files by it."""
    host1: str
    root: Path
    marks: Marks
    used_s: float
    visitors: int = 0
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    reading: Reading | None = None


class Rooms:
    """All open rooms of an agent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rooms: dict[str, Room] = {}

    def open(
        self,
        job: str,
        data_set: str,
        mountpoint: PurePosixPath,
        host1: str,
        root: Path,
        marks: Marks,
    ) -> Room:
        """Let visitors in."""
        room = Room(job, data_set, mountpoint, host1, root, marks, self._clock.monotonic())
        self._rooms[job] = room
        return room

    def drop(self, job: str) -> None:
        """Let nobody in any more."""
        self._rooms.pop(job, None)

    def left_s(self, room: Room) -> float:
        """How long the room stays open if nobody comes; 0 when it closes."""
        if room.closing.is_set() and not room.visitors:
            return 0.0
        if room.visitors:
            return IDLE_S
        return max(0.0, room.used_s + IDLE_S - self._clock.monotonic())

    def close(self, job: str) -> bool:
        """Ask for a room to be closed; False when it isn't open."""
        room = self._rooms.get(job)
        if room is not None:
            room.closing.set()
        return room is not None

    @contextmanager
    def visit(self, job: str) -> Iterator[Room]:
        """Be in a room, which stays open meanwhile."""
        room = self._rooms.get(job)
        if room is None or room.closing.is_set():
            raise RejectedError(
                Code.WRONG_STATE, f"job '{job}' has no backup open", "look again from the start"
            )
        room.visitors += 1
        try:
            yield room
        finally:
            room.visitors -= 1
            room.used_s = self._clock.monotonic()
