"""The write-intent log: which extents of a volume may be about to change (laws L1, L4).

Owns the set of hot extents. An extent is durable in the log before the first write to it is
submitted, and leaves it only after the data is flushed and every pair's bits are saved. Each
commit holds the whole set, so after a crash the newest valid slot is all there is to read.
Must not know pairs: the volume makes an extent safe to leave. Fails by failing the volume.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from controller.volume.slots import CorruptError, SlotRing
from controller.volume.store import StoreDone, StoreError

_RECORD = struct.Struct("<IBxxxI")
"""extent bytes, clean flag, number of extents; the extents follow as u32 each."""
MAX_HOT_EXTENTS = 16384
"""What a slot of 68 KiB holds: 1 GiB in extents of 64 KiB."""

Range = tuple[int, int]
"""Offset and length in bytes."""

MAX_AHEAD = 15
"""Extents that become hot ahead of a sequential writer."""


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
    """The hot set: which extents a write is under way to, and which are safe to leave.

    An extent is dirty from its first write on. A settling takes every extent without a write
    under way, and makes those clean that were not written to since it began. Clean ones leave
    for others at once, the least recently written first.
    """

    def __init__(self, limit: int) -> None:
        assert 0 < limit <= MAX_HOT_EXTENTS
        self._limit = limit
        self._pins: dict[int, int] = {}
        self._dirty: dict[int, None] = {}
        self._settling: dict[int, None] = {}
        self._clean: dict[int, None] = {}
        self._logged = array("I")
        self._place: dict[int, int] = {}

    def __contains__(self, extent: int) -> bool:
        return extent in self._pins

    def snapshot(self) -> tuple[int, ...]:
        """The hot extents, in number order."""
        return tuple(sorted(self._pins))

    @property
    def spare(self) -> int:
        """How many could become hot without waiting for a settling."""
        return self._limit - len(self._logged) + len(self._clean)

    @property
    def spare_is_low(self) -> bool:
        """Whether it is time for a settling, so that nobody has to wait for one."""
        return 2 * self.spare < self._limit

    def pin(self, extent: int) -> None:
        """A write to a hot extent begins; the extent becomes the most recent."""
        self._pins[extent] += 1
        if extent in self._dirty:
            del self._dirty[extent]
        else:
            self._settling.pop(extent, None)
            self._clean.pop(extent, None)
        self._dirty[extent] = None

    def unpin(self, extent: int) -> None:
        """A write to it has ended."""
        assert self._pins[extent] > 0
        self._pins[extent] -= 1

    def admit(self, wanted: Iterable[int]) -> tuple[list[int], list[int]]:
        """Which of `wanted` can become hot now, and which clean extents leave for them."""
        cold = [extent for extent in dict.fromkeys(wanted) if extent not in self._pins]
        cold = cold[: self.spare]
        short = len(cold) - (self._limit - len(self._logged))
        return cold, list(islice(self._clean, max(0, short)))

    def replace(self, leaving: Iterable[int], coming: Iterable[int]) -> None:
        """Carry out what `admit` proposed."""
        for extent in leaving:
            assert self._pins[extent] == 0
            del self._clean[extent]
            del self._pins[extent]
            self._unlist(extent)
        self.expect(coming)
        for extent in coming:
            if extent not in self._pins:
                self._pins[extent] = 0
                self._dirty[extent] = None

    def expect(self, coming: Iterable[int]) -> None:
        """These are in the next record, and hot once it is durable."""
        for extent in coming:
            if extent not in self._place:
                self._place[extent] = len(self._logged)
                self._logged.append(extent)

    def _unlist(self, extent: int) -> None:
        at, last = self._place.pop(extent), self._logged.pop()
        if last != extent:
            self._logged[at] = last
            self._place[last] = at

    def encode(self, extent_bytes: int) -> bytes:
        """The next record: what is hot, and what is expected. At no cost an extent."""
        raw = self._logged
        if sys.byteorder == "big":
            raw = array("I", raw)
            raw.byteswap()
        return _RECORD.pack(extent_bytes, False, len(raw)) + raw.tobytes()

    def begin_settling(self) -> bool:
        """Take every dirty extent without a write under way; False when there is none."""
        assert not self._settling
        pins = self._pins
        self._settling = {extent: None for extent in self._dirty if not pins[extent]}
        for extent in self._settling:
            del self._dirty[extent]
        return bool(self._settling)

    def end_settling(self) -> None:
        """What was taken and not written to since is safe to leave."""
        self._clean.update(self._settling)
        self._settling = {}


class IntentLog:
    """The log at work. `settle` makes everything written so far safe to forget; `ready` is told
    after each commit, `failed` once when the log can't be written any more.

    One commit is under way at a time, for all that is wanted by then; `soon` puts its beginning
    behind the rest of a burst of writes, so that they share it. `announce` hears at its beginning
    what will be written, so that a mirror's log can commit meanwhile. Settlings run beside it,
    ahead of the need.
    """

    def __init__(
        self,
        ring: SlotRing,
        *,
        extent_bytes: int,
        extents: int,
        limit: int,
        settle: Callable[[StoreDone], None],
        ready: Callable[[], None],
        failed: Callable[[StoreError], None],
        soon: Callable[[Callable[[], None]], object],
        announce: Callable[[list[Range]], None],
    ) -> None:
        self.extent_bytes = extent_bytes
        self.hot = HotExtents(limit)
        self.extents = extents
        """How many the volume has."""
        self._ahead = min(MAX_AHEAD, limit // 8)
        self._ring = ring
        self._settle = settle
        self._ready = ready
        self._failed = failed
        self._soon = soon
        self._announce = announce
        self._wanted: dict[int, None] = {}
        self._last_wanted = -1
        self._busy = False
        self._turning = False
        self._closed = False
        self._at_rest: Callable[[], None] | None = None
        self._settling = False

    def covers(self, first: int, last: int) -> bool:
        """Whether extents `first` to `last` are all hot."""
        hot = self.hot
        if first == last:
            return first in hot
        return all(extent in hot for extent in range(first, last + 1))

    def want(self, first: int, last: int) -> None:
        """Make extents hot; `ready` is called when some have become so."""
        extent = first
        while extent <= last:
            if extent not in self.hot and extent not in self._wanted:
                self._wanted[extent] = None
                if extent == self._last_wanted + 1:
                    # Somebody writes from one end to the other: one commit for the next ones.
                    last = max(last, min(first + self._ahead, self.extents - 1))
                self._last_wanted = extent
            extent += 1
        self.turn()

    def expect_writes(self, offset_bytes: int, length_bytes: int) -> None:
        """Writes to this range were announced: make it hot where nobody else needs the room."""
        end = min(offset_bytes + length_bytes, self.extents * self.extent_bytes)
        for extent in range(offset_bytes // self.extent_bytes, -(-end // self.extent_bytes)):
            if len(self._wanted) >= self.hot.spare:
                break
            if extent not in self.hot:
                self._wanted[extent] = None
        self.turn()

    def turn(self) -> None:
        """Start a commit soon when something waits; called also when an extent may have left."""
        if self._wanted and not self._busy and not self._turning:
            self._turning = True
            self._soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self._busy or self._closed or not self._wanted:
            return
        coming, leaving = self.hot.admit(self._wanted)
        if not coming:
            self._settle_ahead()
            return
        self._busy = True
        # A leaving extent is cold from this moment: writes to it wait for the next commit.
        self.hot.replace(leaving, ())
        self.hot.expect(coming)
        self._announce(self._ranges(coming))

        def committed(error: StoreError | None) -> None:
            self._busy = False
            if error is not None:
                self._fail(error)
            if self._at_rest is not None:
                self._at_rest()
            if self._closed:
                return
            self.hot.replace((), coming)
            for extent in coming:
                self._wanted.pop(extent, None)
            self._ready()
            self._turn()

        self._ring.commit(self.hot.encode(self.extent_bytes), committed)
        self._settle_ahead()

    def _ranges(self, extents: list[int]) -> list[Range]:
        size = self.extent_bytes
        return [(extent * size, size) for extent in extents]

    def _settle_ahead(self) -> None:
        """Begin a settling before the last clean extent is gone."""
        if self._settling or not self.hot.spare_is_low or not self.hot.begin_settling():
            return
        self._settling = True

        def settled(error: StoreError | None) -> None:
            self._settling = False
            if error is not None:
                self._fail(error)
                return
            self.hot.end_settling()
            self._turn()

        self._settle(settled)

    def _fail(self, error: StoreError) -> None:
        """Nothing more becomes hot: what the log on disk says stays true."""
        self._closed = True
        self._failed(error)

    def close(self) -> None:
        """Nothing becomes hot from here on."""
        self._closed = True

    def commit_clean(self, done: StoreDone) -> None:
        """At a clean stop, closed, after everything is flushed and saved: nothing is hot."""
        assert self._closed
        if self._busy:
            # What was announced needs no log any more, but its commit has to end first.
            self._at_rest = lambda: self.commit_clean(done)
            return
        record = IntentRecord(self.extent_bytes, clean=True, extents=())
        self._ring.commit(record.encode(), done)
