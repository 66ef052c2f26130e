"""A disk that remembers every write and flush, so that each crash can be looked at afterwards.

Owns the record of the volumes' data and the images made of it: what a machine holds that loses
its power as a flush begins. Must not change what the controller sees. The record is kept in
memory: it is for workloads of some tens of MiB.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from controller.volume.file import punch_hole
from controller.volume.store import BlockStore, Disk, StoreDone, StoreError
from hostagent.programs import need_program, run_program

SECTOR_BYTES = 512
WHOLE_BYTES = 4096
"""Never torn at the beginning of the device: ext4's superblock is two sectors long, and torn
between them it mounts on no disk."""
PromisesT = TypeVar("PromisesT")


@dataclass(frozen=True, slots=True)
class Change:
    """A write, or a discard where there is no data."""

    offset_bytes: int
    length_bytes: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class FlushPoint(Generic[PromisesT]):
    """A flush reached the disk: what was written before, and what was promised to users."""

    written: int
    """So many changes were made before it."""
    durable: int
    """So many of them are covered by a flush that had ended."""
    promises: PromisesT


@dataclass
class Recording(Generic[PromisesT]):
    """Everything since `begin`. `promises` is asked at each flush."""

    promises: Callable[[], PromisesT]
    changes: list[Change] = field(default_factory=list)
    points: list[FlushPoint[PromisesT]] = field(default_factory=list)
    running: bool = False
    _durable: int = 0

    def wrap(self, disk: Disk) -> Disk:
        """Give this to a node."""
        return _RecordingDisk(disk, self)

    def begin(self) -> None:
        """From now on."""
        self.running = True

    def changed(self, change: Change) -> None:
        """The controller wrote or discarded."""
        if self.running:
            self.changes.append(change)

    def flush_began(self) -> int:
        """The controller asked for a flush; returns what it will cover."""
        if self.running:
            point = FlushPoint(len(self.changes), self._durable, self.promises())
            self.points.append(point)
        return len(self.changes)

    def flush_ended(self, covered: int) -> None:
        """It was successful."""
        self._durable = max(self._durable, covered)


class _RecordingStore:
    def __init__(self, inner: BlockStore, recording: Recording[PromisesT]) -> None:
        self._inner = inner
        self._recording = recording

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    @property
    def writes_at_once(self) -> bool:
        return self._inner.writes_at_once

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        self._inner.read(offset_bytes, into, done)

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        self._recording.changed(Change(offset_bytes, len(data), bytes(data)))
        self._inner.write(offset_bytes, data, done)

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        self._recording.changed(Change(offset_bytes, length_bytes, None))
        self._inner.discard(offset_bytes, length_bytes, done)

    def flush(self, done: StoreDone) -> None:
        covered = self._recording.flush_began()

        def ended(error: StoreError | None) -> None:
            if error is None:
                self._recording.flush_ended(covered)
            done(error)

        self._inner.flush(ended)

    def next_data(self, offset_bytes: int) -> int | None:
        return self._inner.next_data(offset_bytes)

    def next_hole(self, offset_bytes: int) -> int:
        return self._inner.next_hole(offset_bytes)

    def allocated_bytes(self) -> int:
        return self._inner.allocated_bytes()

    def close(self) -> None:
        self._inner.close()


class _RecordingDisk:
    def __init__(self, inner: Disk, recording: Recording[PromisesT]) -> None:
        self._inner = inner
        self._recording = recording

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> BlockStore:
        store = self._inner.open(name, size_bytes, create=create, **how)
        return _RecordingStore(store, self._recording)

    def exists(self, name: str) -> bool:
        return self._inner.exists(name)

    def remove(self, name: str) -> None:
        self._inner.remove(name)


class CrashImages(Generic[PromisesT]):
    """Images of crashes, one point after the other: `image` must be asked in their order."""

    def __init__(self, base: Path, recording: Recording[PromisesT], directory: Path) -> None:
        self._recording = recording
        self._durable = directory / "durable.img"
        self._applied = 0
        copy_sparse(base, self._durable)

    def image(
        self, point: FlushPoint[PromisesT], into: Path, kept: Callable[[Change], Change | None]
    ) -> None:
        """What is left at a point when `kept` decides on each change that no flush covers."""
        changes = self._recording.changes
        assert point.durable >= self._applied, "points are asked for in their order"
        _apply(self._durable, changes[self._applied : point.durable])
        self._applied = point.durable
        copy_sparse(self._durable, into)
        left = [kept(change) for change in changes[point.durable : point.written]]
        _apply(into, [change for change in left if change is not None])


def keep(change: Change) -> Change | None:
    """The disk was quick."""
    return change


def drop(change: Change) -> Change | None:
    """The disk had everything in its cache only."""
    del change
    return None


def tear(chance: random.Random) -> Callable[[Change], Change | None]:
    """Some of the changes are there, some are not, some in part."""

    def torn(change: Change) -> Change | None:
        fate = chance.random()
        if fate < 0.4:
            return None
        least = max(SECTOR_BYTES, WHOLE_BYTES - change.offset_bytes)
        if fate < 0.7 or change.length_bytes <= least:
            return change
        length_bytes = chance.randrange(least, change.length_bytes, SECTOR_BYTES)
        data = None if change.data is None else change.data[:length_bytes]
        return Change(change.offset_bytes, length_bytes, data)

    return torn


def _apply(image: Path, changes: list[Change]) -> None:
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        for change in changes:
            if change.data is None:
                punch_hole(fd, change.offset_bytes, change.length_bytes)
            else:
                os.pwrite(fd, change.data, change.offset_bytes)
    finally:
        os.close(fd)


def copy_sparse(source: Path, to: Path) -> None:
    """Copy an image with its holes."""
    to.unlink(missing_ok=True)
    program = need_program("cp", "coreutils")
    run_program([program, "--reflink=auto", "--sparse=always", str(source), str(to)])
