"""A disk with a volatile cache: what a crash leaves of unflushed writes is drawn by sector.

Owns files as two images (what reads see, what is durable) and the writes between them. Faults
are drawn from the seed; without `Faults.enabled` the disk only delays. Fails with StoreError as
a real one does. A failed flush forgets pages the way Linux does: later flushes succeed without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from controller.volume.bitmap import DirtyBitmap, block_range
from controller.volume.store import BlockStore, StoreDone, StoreError, StoreFault
from tests.sim.loop import Epoch

SECTOR_BYTES = 512
BLOCK_BYTES = 4096

_HOLE = bytes(BLOCK_BYTES)

CrashMode = Literal["keep", "drop", "random", "torn", "reorder"]
CRASH_MODES: tuple[CrashMode, ...] = ("keep", "drop", "random", "torn", "reorder")


@dataclass
class Faults:
    """How bad this disk is, as probabilities of a call."""

    enabled: bool = True
    read_error: float = 0.0
    write_error: float = 0.0
    flush_error: float = 0.0
    no_space: float = 0.0
    cold_read: float = 0.3
    slow_flush: float = 0.02
    flush_s: float = 1.0
    """What a slow flush takes at most."""
    read_s: float = 0.01
    """What a cold read takes at most."""

    def only_slow(self) -> None:
        """From now on nothing fails, and most flushes take their time."""
        self.read_error = self.write_error = self.flush_error = self.no_space = 0.0
        self.slow_flush = 0.7

    def strikes(self, rng: Random, rate: float) -> bool:
        """Whether a fault happens now."""
        return self.enabled and rate > 0 and rng.random() < rate


@dataclass(slots=True)
class _Write:
    sequence: int
    offset_bytes: int
    data: bytes


class Image:
    """A file: `live` is what reads see, `durable` what surely survives."""

    def __init__(self, size_bytes: int) -> None:
        self.live = bytearray(size_bytes)
        self.durable = bytearray(size_bytes)
        self.pending: list[_Write] = []
        self.allocated: set[int] = set()
        self.version = 0
        """Counts changes of `durable`."""
        self._sequence = 0

    def put(self, offset_bytes: int, data: bytes) -> None:
        """Change what reads see."""
        end = offset_bytes + len(data)
        self.live[offset_bytes:end] = data
        self._sequence += 1
        self.pending.append(_Write(self._sequence, offset_bytes, data))

    def settle(self, up_to: int) -> None:
        """Make the writes up to a sequence number durable."""
        kept: list[_Write] = []
        for write in self.pending:
            if write.sequence <= up_to:
                _lay(self.durable, write.offset_bytes, write.data)
            else:
                kept.append(write)
        self.pending = kept
        self.version += 1

    @property
    def last_sequence(self) -> int:
        """Number of the newest write."""
        return self._sequence

    def forget(self, rng: Random) -> None:
        """A failed flush: some dirty pages are dropped from the list and never become durable."""
        self.pending = [write for write in self.pending if rng.random() < 0.5]

    def after_crash(self, rng: Random, mode: CrashMode) -> bytearray:
        """What a crash now may leave."""
        if not self.pending:
            return self.durable
        left = bytearray(self.durable)
        if mode == "reorder":
            self._reordered(left, rng)
            return left
        for write in self.pending:
            fate = mode
            if mode == "random":
                fate = rng.choice(("keep", "drop", "torn"))
            if fate == "keep":
                _lay(left, write.offset_bytes, write.data)
            elif fate == "torn":
                for at in range(0, len(write.data), SECTOR_BYTES):
                    if rng.random() < 0.5:
                        _lay(left, write.offset_bytes + at, write.data[at : at + SECTOR_BYTES])
        return left

    def _reordered(self, left: bytearray, rng: Random) -> None:
        """The drive wrote back sector by sector in an order of its own until the power went.

        Of a sector that was written twice it may have taken the older content last.
        """
        sectors = [
            (write.offset_bytes + at, write.data[at : at + SECTOR_BYTES])
            for write in self.pending
            for at in range(0, len(write.data), SECTOR_BYTES)
        ]
        rng.shuffle(sectors)
        for offset_bytes, data in sectors[: rng.randint(0, len(sectors))]:
            _lay(left, offset_bytes, data)

    def spoil(self, offset_bytes: int, data: bytes) -> None:
        """The medium holds something else from now on."""
        _lay(self.live, offset_bytes, data)
        _lay(self.durable, offset_bytes, data)
        self.allocated.add(offset_bytes // BLOCK_BYTES)
        self.version += 1

    def crash(self, rng: Random, mode: CrashMode) -> None:
        """The machine stops now."""
        if not self.pending and self.live == self.durable:
            return
        self.durable = self.after_crash(rng, mode)
        self.live = bytearray(self.durable)
        self.pending = []
        self.version += 1
        self.allocated = {
            block
            for block in range(len(self.live) // BLOCK_BYTES)
            if self.live[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] != _HOLE
        }


def _lay(into: bytearray, offset_bytes: int, data: bytes) -> None:
    into[offset_bytes : offset_bytes + len(data)] = data


class SimDisk:
    """The `Disk` of one machine; outlives its crashes."""

    def __init__(self, rng: Random, faults: Faults, loop: asyncio.AbstractEventLoop) -> None:
        self.rng = rng
        self.faults = faults
        self.loop = loop
        self.shares = rng.random() < 0.5
        """Whether a file may share extents with another."""
        self.files: dict[str, Image] = {}
        self.epoch: Epoch | None = None
        self.on_write: Callable[[str, int, int], None] = lambda _name, _offset, _length: None
        self.on_flush_failed: Callable[[str], None] = lambda _name: None

    def open(
        self,
        name: str,
        size_bytes: int,
        *,
        create: bool,
        reserve: bool = False,
        longer: bool = False,
    ) -> BlockStore:
        """Open or create a file; none is ever longer, since none grows here."""
        del longer
        if create:
            if name in self.files:
                raise StoreError(StoreFault.IO, f"{name} exists")
            image = Image(size_bytes)
            if reserve:
                image.allocated = set(range(-(-size_bytes // BLOCK_BYTES)))
            self.files[name] = image
        found = self.files.get(name)
        if found is None:
            raise StoreError(StoreFault.IO, f"there is no {name}")
        if len(found.live) != size_bytes:
            raise StoreError(StoreFault.IO, f"{name} has {len(found.live)} bytes")
        assert self.epoch is not None
        return SimStore(self, name, found, self.epoch)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return name in self.files

    def remove(self, name: str) -> None:
        """Delete a file, durably."""
        self.files.pop(name, None)

    def crash(self, rng: Random, mode: CrashMode) -> None:
        """The machine stops now."""
        for name in sorted(self.files):
            self.files[name].crash(rng, mode)

    def decay(self, rng: Random) -> str:
        """Make some log, or a part of some bitmap, unreadable as what it was; its name."""
        names = [name for name in sorted(self.files) if name.endswith((".meta", ".bitmap"))]
        if not names:
            return "nothing"
        name = rng.choice(names)
        image = self.files[name]
        blocks = range(len(image.live) // BLOCK_BYTES)
        if name.endswith(".bitmap"):
            # Its head, or a page: each is to be noticed on its own.
            blocks = rng.choice((blocks[:1], blocks[1:]))
        for block in blocks:
            image.spoil(block * BLOCK_BYTES, rng.randbytes(SECTOR_BYTES))
        return name

    def after_crash(self, rng: Random, mode: CrashMode) -> dict[str, bytearray]:
        """What a crash now may leave of every file, without crashing."""
        return {name: self.files[name].after_crash(rng, mode) for name in sorted(self.files)}


class SimStore:
    """An open file of one run of a controller."""

    def __init__(self, disk: SimDisk, name: str, image: Image, epoch: Epoch) -> None:
        self._disk = disk
        self._name = name
        self._image = image
        self._epoch = epoch
        self._closed = False
        self._twin: tuple[SimStore, DirtyBitmap] | None = None
        self._flushing = False
        self._flush_waiters: list[StoreDone] = []

    @property
    def size_bytes(self) -> int:
        """Capacity."""
        return len(self._image.live)

    @property
    def writes_at_once(self) -> bool:
        """As a file's page cache."""
        return True

    def _dead(self, done: StoreDone) -> bool:
        if not self._epoch.alive:
            return True
        if self._closed:
            done(StoreError(StoreFault.CLOSED, self._name))
            return True
        return False

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        """Read now, or later as it was then, as it is by then, or a mixture of both."""
        if self._dead(done):
            return
        rng, faults = self._disk.rng, self._disk.faults
        end = offset_bytes + len(into)
        assert end <= self.size_bytes
        failed = faults.strikes(rng, faults.read_error)
        if not failed and rng.random() >= faults.cold_read:
            into[:] = self._image.live[offset_bytes:end]
            done(None)
            return
        before = bytes(self._image.live[offset_bytes:end])
        style = rng.randrange(3)

        def arrive() -> None:
            if failed:
                done(StoreError(StoreFault.IO, f"read of {self._name}"))
                return
            after = bytes(self._image.live[offset_bytes:end])
            middle = {0: 0, 1: len(into), 2: len(into) // 2 // SECTOR_BYTES * SECTOR_BYTES}[style]
            into[:] = before[:middle] + after[middle:]
            done(None)

        self._disk.loop.call_later(rng.uniform(0.0001, faults.read_s), arrive)

    def share_with(self, source: BlockStore | None, held: DirtyBitmap | None) -> None:
        """On a disk that can: what is written there is the other's, whatever comes."""
        if self._disk.shares and isinstance(source, SimStore) and held is not None:
            self._twin = (source, held)
        else:
            self._twin = None

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        """Into the cache, at once."""
        if self._dead(done):
            return
        put = bytes(data)
        if self._twin is not None:
            source, held = self._twin
            first, count = block_range(offset_bytes, len(data))
            whole = not (offset_bytes | len(data)) % BLOCK_BYTES
            if whole and held.count_in(first, count) == count:
                put = bytes(source._image.live[offset_bytes : offset_bytes + len(data)])
        self._put(offset_bytes, put, done)

    def _put(self, offset_bytes: int, data: bytes, done: StoreDone, *, hole: bool = False) -> None:
        assert offset_bytes + len(data) <= self.size_bytes
        self._disk.on_write(self._name, offset_bytes, len(data))
        error = self._write_fault()
        if error is not None:
            sectors = len(data) // SECTOR_BYTES
            data = data[: self._disk.rng.randint(0, sectors) * SECTOR_BYTES]
        if data:
            self._image.put(offset_bytes, data)
            self._allocate(offset_bytes, len(data), hole=hole)
        done(error)

    def _allocate(self, offset_bytes: int, length_bytes: int, *, hole: bool) -> None:
        end = offset_bytes + length_bytes
        if hole:
            first, last = -(-offset_bytes // BLOCK_BYTES), end // BLOCK_BYTES
            self._image.allocated.difference_update(range(first, last))
        else:
            first, last = offset_bytes // BLOCK_BYTES, -(-end // BLOCK_BYTES)
            self._image.allocated.update(range(first, last))

    def _write_fault(self) -> StoreError | None:
        rng, faults = self._disk.rng, self._disk.faults
        if faults.strikes(rng, faults.no_space):
            return StoreError(StoreFault.NO_SPACE, self._name)
        if faults.strikes(rng, faults.write_error):
            return StoreError(StoreFault.IO, f"write to {self._name}")
        return None

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        """Zeros, at once."""
        if self._dead(done):
            return
        self._put(offset_bytes, bytes(length_bytes), done, hole=True)

    def flush(self, done: StoreDone) -> None:
        """As FileStore: one at a time, whoever comes meanwhile shares the next."""
        if self._dead(done):
            return
        self._flush_waiters.append(done)
        if not self._flushing:
            self._start_flush()

    def _start_flush(self) -> None:
        rng, faults = self._disk.rng, self._disk.faults
        waiters, self._flush_waiters = self._flush_waiters, []
        self._flushing = True
        up_to = self._image.last_sequence
        slow = rng.random() < faults.slow_flush
        failed = faults.strikes(rng, faults.flush_error)

        def ended() -> None:
            self._flushing = False
            error: StoreError | None = None
            if failed:
                error = StoreError(StoreFault.IO, f"flush of {self._name}")
                self._image.forget(rng)
                self._disk.on_flush_failed(self._name)
            else:
                self._image.settle(up_to)
            for waiter in waiters:
                waiter(error)
            if self._flush_waiters and not self._flushing:
                self._start_flush()

        delay_s = rng.uniform(0.2, 1.0) * faults.flush_s if slow else rng.uniform(0.0002, 0.01)
        self._disk.loop.call_later(delay_s, ended)

    def next_data(self, offset_bytes: int) -> int | None:
        """The first allocated block."""
        first = offset_bytes // BLOCK_BYTES
        later = [block for block in self._image.allocated if block >= first]
        return max(offset_bytes, min(later) * BLOCK_BYTES) if later else None

    def next_hole(self, offset_bytes: int) -> int:
        """The first block that isn't allocated."""
        block = offset_bytes // BLOCK_BYTES
        while block * BLOCK_BYTES < self.size_bytes and block in self._image.allocated:
            block += 1
        return min(self.size_bytes, max(offset_bytes, block * BLOCK_BYTES))

    def allocated_bytes(self) -> int:
        """Allocated blocks."""
        return len(self._image.allocated) * BLOCK_BYTES

    def close(self) -> None:
        """Let go."""
        self._closed = True
