"""A comparison of both sides of a pair while hosts go on writing.

Owns the cursor and the findings of one run over a source's volume. Digests travel in the same
stream as the writes, so a block is compared at one point of the order of writes and a difference
is a difference. Where there was no telling, because a write overtook a read, it asks again; a
block that can't be told after `TRIES` is counted as busy. It marks what differs and repairs
nothing. When it is over, well or not, it calls `over` once, and is shown as ended when that is
concluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from controller.api.messages import ByteRange, Progress, VerifyInfo, VerifyState
from controller.link.channel import Channel
from controller.link.frames import MAX_DISCARD_BYTES
from controller.pair.comparing import digests_of
from controller.pair.copier import DISCARD_WEIGHT_BYTES, STEP_BYTES, Clock
from controller.pair.pace import Meter, RateCap
from controller.pair.reading import CHUNK_BYTES, SourceReader
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, runs_of
from controller.volume.store import StoreError
from controller.volume.volume import Volume

TRIES = 64
WINDOW = 16
"""Comparisons under way, 4 MiB of data: their answers may come in one turn of the loop."""
SHOWN_RANGES = 256
COUNTED_RANGES = 4096
"""Beyond that nobody counts, or a volume that differs everywhere would stop the loop."""


class _Inquiry:
    """One range that is being compared."""

    __slots__ = ("count", "first", "hole", "tries", "verifier")

    def __init__(self, verifier: Verifier, first: int, count: int, *, hole: bool) -> None:
        self.verifier = verifier
        self.first = first
        self.count = count
        self.hole = hole
        self.tries = 0

    def compared(self, differing: int | None) -> None:
        self.verifier.compared(self, differing)

    def lost(self) -> None:
        self.verifier.stop("the link broke")


class Verifier:
    """One run."""

    def __init__(
        self,
        volume: Volume,
        bitmap: DirtyBitmap,
        channel: Channel,
        clock: Clock,
        rate_limit_bytes_per_s: int | None,
        over: Callable[[], None],
        *,
        repair: bool,
    ) -> None:
        self._volume = volume
        self._store = volume.store
        self._bitmap = bitmap
        self._channel = channel
        self._clock = clock
        self._over = over
        self._cap = RateCap(rate_limit_bytes_per_s, clock.now_s())
        self._meter = Meter(clock.now_s())
        self._began_s = clock.now_s()
        self._took_s: float | None = None
        self._blocks = volume.size_bytes // BLOCK_BYTES
        self._cursor = 0
        self._again: list[_Inquiry] = []
        self._asked = 0
        self._pumping = False
        self._cancel_timer: Callable[[], None] | None = None
        self._busy_blocks = 0
        self._done_blocks = 0
        self.repair = repair
        self.repaired = False
        self.reader = SourceReader(volume)
        self.state = VerifyState.RUNNING
        self.reason = ""
        self._active = True
        self._outcome = VerifyState.ENDED
        self.found = DirtyBitmap(self._blocks)
        """The blocks that differ."""

    @property
    def running(self) -> bool:
        """Whether its findings are not all there yet."""
        return self.state is VerifyState.RUNNING

    def stop(self, reason: str) -> None:
        """Give up; what was found until now stays found, and a repair goes on with the pair."""
        if self.state is VerifyState.REPAIRING:
            self.state, self.reason = VerifyState.STOPPED, reason
        else:
            self._end(VerifyState.STOPPED, reason)

    def _end(self, outcome: VerifyState, reason: str) -> None:
        if not self._active:
            return
        self._active = False
        self._outcome, self.reason = outcome, reason
        self._took_s = self._clock.now_s() - self._began_s
        self.reader.stop()
        if self._cancel_timer is not None:
            self._cancel_timer()
        self._over()

    def conclude(self, failure: str = "") -> None:
        """What was found is marked, durably, unless that has failed: the outcome may be shown."""
        if failure:
            self._outcome, self.reason = VerifyState.STOPPED, failure
        if self.running:
            self.state = self._outcome

    def repairing(self) -> None:
        """What differs is being copied."""
        self.state = VerifyState.REPAIRING

    def copied(self) -> None:
        """What was found is repaired. Half a comparison stays half."""
        if self.state is VerifyState.REPAIRING:
            self.state, self.repaired = self._outcome, True

    def pump(self) -> None:
        """Ask as much as window, cap and politeness allow."""
        if self._pumping or not self._active:
            return
        self._pumping = True
        asked_bytes = 0
        while self._may_ask():
            delay_s = self._cap.delay_s(self._clock.now_s())
            if delay_s > 0 or asked_bytes >= STEP_BYTES:
                self._later(delay_s)
                break
            inquiry = self._again.pop() if self._again else self._next()
            if inquiry is None:
                if not self._asked:
                    self._end(VerifyState.ENDED, "")
                break
            asked_bytes += self._ask(inquiry)
        self._pumping = False

    def _may_ask(self) -> bool:
        return self._active and not self.reader.busy and self._asked < WINDOW

    def _later(self, delay_s: float) -> None:
        if self._cancel_timer is not None:
            self._cancel_timer()
        self._cancel_timer = self._clock.later(delay_s, self.pump)

    def _next(self) -> _Inquiry | None:
        first = self._cursor
        if first >= self._blocks:
            return None
        data_at = self._store.next_data(first * BLOCK_BYTES)
        hole_blocks = (
            self._blocks - first if data_at is None else max(0, data_at // BLOCK_BYTES - first)
        )
        count = min(hole_blocks, MAX_DISCARD_BYTES // BLOCK_BYTES)
        if not count:
            count = min(CHUNK_BYTES // BLOCK_BYTES, self._blocks - first)
        self._cursor = first + count
        return _Inquiry(self, first, count, hole=hole_blocks > 0)

    def _ask(self, inquiry: _Inquiry) -> int:
        inquiry.tries += 1
        if inquiry.hole:
            if self._is_hole(inquiry):
                self._send(inquiry, b"")
            else:
                # A host has written there since this range was cut.
                self._split(inquiry)
            return DISCARD_WEIGHT_BYTES
        size_bytes = inquiry.count * BLOCK_BYTES

        def ask(data: memoryview) -> None:
            self._cap.spent(size_bytes)
            self._send(inquiry, digests_of(data))
            self.pump()

        self.reader.read(inquiry.first, inquiry.count, ask, self._unreadable)
        return size_bytes

    def _is_hole(self, inquiry: _Inquiry) -> bool:
        data_at = self._store.next_data(inquiry.first * BLOCK_BYTES)
        return data_at is None or data_at >= (inquiry.first + inquiry.count) * BLOCK_BYTES

    def _send(self, inquiry: _Inquiry, digests: bytes) -> None:
        self._asked += 1
        offset_bytes, length_bytes = inquiry.first * BLOCK_BYTES, inquiry.count * BLOCK_BYTES
        self._channel.compare(offset_bytes, length_bytes, digests, inquiry, copy=False)

    def _unreadable(self, error: StoreError) -> None:
        self.stop(f"'{self._volume.name}' can't be read: {error}")

    def compared(self, inquiry: _Inquiry, differing: int | None) -> None:
        """An answer has arrived."""
        if not self._active:
            return
        self._asked -= 1
        if differing is not None:
            for at, count in runs_of(differing):
                self.found.set(inquiry.first + at, count)
                self._bitmap.set(inquiry.first + at, count)
            self._told(inquiry.count)
        elif inquiry.hole:
            self._split(inquiry)
        elif inquiry.tries < TRIES:
            self._again.append(inquiry)
        else:
            self._busy_blocks += inquiry.count
            self._told(inquiry.count)
        self.pump()

    def _split(self, inquiry: _Inquiry) -> None:
        """One side has data where the other one has a hole: compare that piece by piece."""
        chunk = CHUNK_BYTES // BLOCK_BYTES
        end = inquiry.first + inquiry.count
        if inquiry.count > chunk:
            middle = inquiry.first + max(chunk, inquiry.count // 2 // chunk * chunk)
            self._again.append(_Inquiry(self, middle, end - middle, hole=True))
            self._again.append(_Inquiry(self, inquiry.first, middle - inquiry.first, hole=True))
        else:
            self._again.append(_Inquiry(self, inquiry.first, inquiry.count, hole=False))

    def _told(self, blocks: int) -> None:
        self._done_blocks += blocks
        self._meter.add(blocks * BLOCK_BYTES, self._clock.now_s())

    # ------------------------------------------------------------ findings

    def info(self) -> VerifyInfo:
        """What it has found until now."""
        ranges = list(islice(self._ranges(), COUNTED_RANGES))
        left_bytes = (self._blocks - self._done_blocks) * BLOCK_BYTES
        took_s = self._clock.now_s() - self._began_s if self._took_s is None else self._took_s
        progress = Progress(
            done_bytes=self._done_blocks * BLOCK_BYTES,
            left_bytes=left_bytes,
            rate_bytes_per_s=self._meter.rate_bytes_per_s,
            eta_s=self._meter.eta_s(left_bytes),
        )
        return VerifyInfo(
            state=self.state,
            reason=self.reason,
            elapsed_s=round(took_s, 3),
            compared_bytes=(self._done_blocks - self._busy_blocks) * BLOCK_BYTES,
            differing_bytes=self.found.dirty_bytes,
            busy_bytes=self._busy_blocks * BLOCK_BYTES,
            ranges=ranges[:SHOWN_RANGES],
            range_count=len(ranges),
            repaired=self.repaired,
            progress=progress if self.running else None,
        )

    def _ranges(self) -> Iterator[ByteRange]:
        """What differs, with runs joined that a page of the bitmap parts."""
        begin = end = 0
        for first, count in self.found.runs():
            if first != end and end > begin:
                yield _byte_range(begin, end)
            begin = begin if first == end and end > begin else first
            end = first + count
        if end > begin:
            yield _byte_range(begin, end)


def _byte_range(begin: int, end: int) -> ByteRange:
    return ByteRange(offset_bytes=begin * BLOCK_BYTES, length_bytes=(end - begin) * BLOCK_BYTES)
