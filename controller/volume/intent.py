"""The write-intent log: which extents of a volume may be about to change (laws L1, L4).

Owns the set of hot extents. An extent is durable in the log before the first write to it is
submitted, and leaves it only after the data is flushed and every pair's bits are saved. Each
commit holds the whole set, so after a crash the newest valid slot is all there is to read.
Must not know pairs: the volume makes an extent safe to leave. Fails by failing the volume.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from controller.volume.slots import CorruptError, SlotRing
from controller.volume.store import StoreDone, StoreError

_RECORD = struct.Struct("<IBxxxI")
"""extent bytes, clean flag, number of extents; the extents follow as u32 each."""
MAX_HOT_EXTENTS = 16384
"""What a slot of 68 KiB holds: 1 GiB in extents of 64 KiB."""


def record_bytes(extents: int) -> int:
    """Length of a record with so many extents."""
    return _RECORD.size + 4 * extents


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """What a slot says: the hot extents, and whether the volume was closed cleanly."""

    extent_bytes: int
    clean: bool
    extents: tuple[int, ...]

    def encode(self) -> bytes:
        """The slot's payload."""
        assert len(self.extents) <= MAX_HOT_EXTENTS
        head = _RECORD.pack(self.extent_bytes, self.clean, len(self.extents))
        return head + struct.pack(f"<{len(self.extents)}I", *self.extents)

    @classmethod
    def decode(cls, payload: bytes) -> IntentRecord:
        """Parse a payload; CorruptError when it contradicts itself."""
        if len(payload) < _RECORD.size:
            raise CorruptError("intent record too short")
        extent_bytes, clean, count = _RECORD.unpack_from(payload)
        if len(payload) != record_bytes(count) or extent_bytes == 0:
            raise CorruptError("intent record of the wrong length")
        if clean > 1 or (clean and count):
            raise CorruptError("intent record that is neither clean nor in use")
        extents: tuple[int, ...] = struct.unpack_from(f"<{count}I", payload, _RECORD.size)
        if len(set(extents)) != count:
            raise CorruptError("intent record that names an extent twice")
        return cls(extent_bytes, bool(clean), extents)


class HotExtents:
    """The hot set, least recently written first, with a count of writes in flight on each."""

    def __init__(self, limit: int) -> None:
        assert 0 < limit <= MAX_HOT_EXTENTS
        self._limit = limit
        self._pins: dict[int, int] = {}

    def __contains__(self, extent: int) -> bool:
        return extent in self._pins

    def snapshot(self) -> tuple[int, ...]:
        """The hot extents, in number order."""
        return tuple(sorted(self._pins))

    def pin(self, extent: int) -> None:
        """A write to a hot extent begins; the extent becomes the most recent."""
        self._pins[extent] = self._pins.pop(extent) + 1

    def unpin(self, extent: int) -> None:
        """A write to it has ended."""
        assert self._pins[extent] > 0
        self._pins[extent] -= 1

    def admit(self, wanted: Iterable[int]) -> tuple[list[int], list[int]]:
        """Which of `wanted` can become hot now, and which idle extents leave for them.

        More leave than must, so that the flush an eviction costs is shared by many.
        """
        cold = [extent for extent in dict.fromkeys(wanted) if extent not in self._pins]
        room = self._limit - len(self._pins)
        idle: list[int] = []
        if len(cold) > room:
            share = max(len(cold) - room, self._limit // 4)
            idle = [extent for extent, pins in self._pins.items() if pins == 0][:share]
            room += len(idle)
        return cold[:room], idle

    def replace(self, leaving: Iterable[int], coming: Iterable[int]) -> None:
        """Carry out what `admit` proposed."""
        for extent in leaving:
            assert self._pins[extent] == 0
            del self._pins[extent]
        for extent in coming:
            self._pins.setdefault(extent, 0)


class IntentLog:
    """The log at work. `settle` makes everything written so far safe to forget; `ready` is told
    after each commit, `failed` once when the log can't be written any more."""

    def __init__(
        self,
        ring: SlotRing,
        *,
        extent_bytes: int,
        limit: int,
        settle: Callable[[StoreDone], None],
        ready: Callable[[], None],
        failed: Callable[[StoreError], None],
    ) -> None:
        self.extent_bytes = extent_bytes
        self.hot = HotExtents(limit)
        self._ring = ring
        self._settle = settle
        self._ready = ready
        self._failed = failed
        self._wanted: dict[int, None] = {}
        self._busy = False

    def covers(self, first: int, last: int) -> bool:
        """Whether extents `first` to `last` are all hot."""
        hot = self.hot
        if first == last:
            return first in hot
        return all(extent in hot for extent in range(first, last + 1))

    def want(self, first: int, last: int) -> None:
        """Make extents hot; `ready` is called when some have become so."""
        for extent in range(first, last + 1):
            if extent not in self.hot:
                self._wanted[extent] = None
        self.turn()

    def turn(self) -> None:
        """Start a commit when something waits and room can be made."""
        if self._busy or not self._wanted:
            return
        coming, leaving = self.hot.admit(self._wanted)
        if not coming:
            return
        self._busy = True
        # A leaving extent is cold from this moment: writes to it wait for the next commit.
        self.hot.replace(leaving, ())

        def settled(error: StoreError | None) -> None:
            if error is not None:
                self._fail(error)
                return
            extents = tuple(sorted({*self.hot.snapshot(), *coming}))
            record = IntentRecord(self.extent_bytes, clean=False, extents=extents)
            self._ring.commit(record.encode(), committed)

        def committed(error: StoreError | None) -> None:
            if error is not None:
                self._fail(error)
                return
            self._busy = False
            self.hot.replace((), coming)
            for extent in coming:
                self._wanted.pop(extent, None)
            self._ready()
            self.turn()

        if leaving:
            self._settle(settled)
        else:
            settled(None)

    def commit_clean(self, done: StoreDone) -> None:
        """At a clean stop, after everything is flushed and saved: nothing is hot."""
        assert not self._busy
        record = IntentRecord(self.extent_bytes, clean=True, extents=())
        self._ring.commit(record.encode(), done)

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._busy

    def _fail(self, error: StoreError) -> None:
        self._busy = False
        self._failed(error)
