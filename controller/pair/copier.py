"""The copy of a resync: marked blocks go to the other side while hosts go on writing.

Owns the cursor, the window and the batches of one run from source to target. Host writes are
mirrored in the same stream meanwhile, so a block is read and sent in one step. Bits are cleared
a batch at a time, after both sides have flushed (law L2). A block that is marked only because a
crash may have changed it is compared by digest first, and travels when it differs. Ends by
calling `done`; a lost channel stops it and leaves every bit that was not cleared, from where the
next run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from controller.api.messages import Progress
from controller.link.channel import Channel
from controller.link.frames import MAX_DISCARD_BYTES
from controller.pair.comparing import digests_of
from controller.pair.messages import Cleared
from controller.pair.pace import Meter, RateCap
from controller.pair.reading import CHUNK_BYTES, SourceReader
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, runs_of
from controller.volume.store import StoreError
from controller.volume.volume import Volume

WINDOW_BYTES = 8 << 20
BATCH_BYTES = 64 << 20
DISCARD_WEIGHT_BYTES = 64 << 10
"""What a discard of any length or a comparison counts for, beside data."""
STEP_BYTES = 4 << 20
"""Sent at most in one go before the loop gets a turn."""


class Clock(Protocol):
    """The loop's clock and timers, injected."""

    def now_s(self) -> float:
        """Monotonic seconds."""

    def later(self, delay_s: float, run: Callable[[], None]) -> Callable[[], None]:
        """Call `run` after a delay; returns what cancels it."""


class CopyFailed(Protocol):
    """Told once when the source can't be read."""

    def __call__(self, error: StoreError) -> None:
        """The source's store failed."""


class _Piece:
    """The ticket of one copied piece."""

    __slots__ = ("copier", "size_bytes", "weight_bytes")

    def __init__(self, copier: Copier, size_bytes: int, weight_bytes: int) -> None:
        self.copier = copier
        self.size_bytes = size_bytes
        self.weight_bytes = weight_bytes
        """What it takes of the window: a discard is one frame, however long."""

    def acked(self) -> None:
        self.copier.piece_acked(self.size_bytes, self.weight_bytes)

    def lost(self) -> None:
        self.copier.stop()


class _Barrier:
    """The ticket of a batch's flush on the target."""

    __slots__ = ("copier",)

    def __init__(self, copier: Copier) -> None:
        self.copier = copier

    def acked(self) -> None:
        self.copier.flushed()

    def lost(self) -> None:
        self.copier.stop()


class _Inquiry:
    """Blocks in doubt that the target compares."""

    __slots__ = ("copier", "count", "first", "weight_bytes")

    def __init__(self, copier: Copier, first: int, count: int, weight_bytes: int) -> None:
        self.copier = copier
        self.first = first
        self.count = count
        self.weight_bytes = weight_bytes
        """What it takes of the window: its data is read and digested, that of a hole is not."""

    def compared(self, differing: int | None) -> None:
        self.copier.compared(self.first, self.count, differing, self.weight_bytes)

    def lost(self) -> None:
        self.copier.stop()


class Copier:
    """One run over a source's bitmap. The bitmap gains no bits while it runs, short of errors."""

    def __init__(
        self,
        volume: Volume,
        bitmap: DirtyBitmap,
        doubt: DirtyBitmap | None,
        channel: Channel,
        clock: Clock,
        rate_limit_bytes_per_s: int | None,
        done: Callable[[], None],
        failed: CopyFailed,
    ) -> None:
        self._volume = volume
        self._store = volume.store
        self._bitmap = bitmap
        self._doubt = doubt
        self._channel = channel
        self._clock = clock
        self._done = done
        self._failed = failed
        self._cap = RateCap(rate_limit_bytes_per_s, clock.now_s())
        self._meter = Meter(clock.now_s())
        self.reader = SourceReader(volume)
        self._cursor = 0
        self._in_flight_bytes = 0
        self._batch: list[tuple[int, int]] = []
        self._batch_bytes = 0
        self._covered: list[tuple[int, int]] = []
        self._flushes_left = 0
        self._active = True
        self._pumping = False
        self._comparing = 0
        self._cancel_timer: Callable[[], None] | None = None
        self.union_bytes = bitmap.dirty_bytes
        self.left_bytes = self.union_bytes
        self.payload_bytes = 0
        self.compared_bytes = 0
        self.ended = False
        """Everything is copied, flushed on both sides, and cleared here."""

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            done_bytes=max(0, self.union_bytes - self.left_bytes),
            left_bytes=self.left_bytes,
            rate_bytes_per_s=self._meter.rate_bytes_per_s,
            eta_s=self._meter.eta_s(self.left_bytes),
        )

    def stop(self) -> None:
        """Give up: the channel is gone or the pair has another plan."""
        self._active = False
        self.reader.stop()
        if self._cancel_timer is not None:
            self._cancel_timer()

    def pump(self) -> None:
        """Send as much as window, cap and politeness allow."""
        if self._pumping or not self._active:
            return
        self._pumping = True
        sent_bytes = 0
        while self._may_send():
            if self._batch_bytes >= BATCH_BYTES and self._flushes_left:
                break
            delay_s = self._cap.delay_s(self._clock.now_s())
            if delay_s > 0 or sent_bytes >= STEP_BYTES:
                self._again(delay_s)
                break
            run = self._bitmap.next_run(self._cursor, MAX_DISCARD_BYTES // BLOCK_BYTES)
            if run is None:
                self._end_of_pass()
                break
            sent_bytes += self._send_run(*run)
            if self._batch_bytes >= BATCH_BYTES and not self._flushes_left:
                self._flush_batch()
        self._pumping = False

    def _may_send(self) -> bool:
        return self._active and not self.reader.busy and self._in_flight_bytes < WINDOW_BYTES

    def _again(self, delay_s: float) -> None:
        if self._cancel_timer is not None:
            self._cancel_timer()
        self._cancel_timer = self._clock.later(delay_s, self.pump)

    def _send_run(self, first: int, count: int) -> int:
        offset_bytes = first * BLOCK_BYTES
        in_doubt, count = self._doubtful(first, count)
        data_at = self._store.next_data(offset_bytes)
        if data_at is None or data_at >= offset_bytes + BLOCK_BYTES:
            if data_at is not None:
                count = min(count, data_at // BLOCK_BYTES - first)
            if in_doubt:
                self._ask(first, count, b"")
            else:
                self._sent(first, count, 0)
                piece = _Piece(self, count * BLOCK_BYTES, DISCARD_WEIGHT_BYTES)
                self._channel.discard(offset_bytes, count * BLOCK_BYTES, piece, copy=True)
            return DISCARD_WEIGHT_BYTES
        count = min(count, CHUNK_BYTES // BLOCK_BYTES)
        if in_doubt:
            self._compare(first, count)
        else:
            self._read(first, count)
        return count * BLOCK_BYTES

    def _read(self, first: int, count: int) -> None:
        def send(data: memoryview) -> None:
            self._sent(first, count, len(data))
            self._cap.spent(len(data))
            piece = _Piece(self, len(data), len(data))
            self._channel.write(first * BLOCK_BYTES, data, piece, copy=True)
            self.pump()

        self.reader.read(first, count, send, self._unreadable)

    def _unreadable(self, error: StoreError) -> None:
        self.stop()
        self._failed(error)

    def _sent(self, first: int, count: int, payload_bytes: int) -> None:
        self._cursor = first + count
        self._batch.append((first, count))
        self._batch_bytes += max(payload_bytes, BLOCK_BYTES)
        self._in_flight_bytes += payload_bytes or DISCARD_WEIGHT_BYTES
        self.payload_bytes += payload_bytes

    def piece_acked(self, size_bytes: int, weight_bytes: int) -> None:
        """The target has applied a piece."""
        self._in_flight_bytes -= weight_bytes
        self.left_bytes = max(0, self.left_bytes - size_bytes)
        self._meter.add(size_bytes, self._clock.now_s())
        self.pump()

    # ------------------------------------------------------------ doubt

    def _doubtful(self, first: int, count: int) -> tuple[bool, int]:
        """Whether a run begins in doubt, and how much of it is like its beginning."""
        run = None if self._doubt is None else self._doubt.next_run(first, count)
        if run is None:
            return False, count
        if run[0] == first:
            return True, run[1]
        return False, min(count, run[0] - first)

    def _compare(self, first: int, count: int) -> None:
        def ask(data: memoryview) -> None:
            digests = digests_of(data)
            self._cap.spent(len(digests))
            self._ask(first, count, digests)
            self.pump()

        self.reader.read(first, count, ask, self._unreadable)

    def _ask(self, first: int, count: int, digests: bytes) -> None:
        """Ask which of these blocks differ; their bits are dealt with when the answer is there."""
        self._cursor = first + count
        self._comparing += 1
        weight_bytes = count * BLOCK_BYTES if digests else DISCARD_WEIGHT_BYTES
        self._in_flight_bytes += weight_bytes
        self.compared_bytes += count * BLOCK_BYTES
        inquiry = _Inquiry(self, first, count, weight_bytes)
        self._channel.compare(first * BLOCK_BYTES, count * BLOCK_BYTES, digests, inquiry, copy=True)

    def compared(self, first: int, count: int, differing: int | None, weight_bytes: int) -> None:
        """The target has compared: what is equal needs a flush only, the rest travels."""
        if not self._active:
            return
        assert self._doubt is not None
        self._doubt.clear(first, count)
        self._comparing -= 1
        self._in_flight_bytes -= weight_bytes
        equal = 0 if differing is None else ~differing & (1 << count) - 1
        for at, length in runs_of(equal):
            self._batch.append((first + at, length))
            self.left_bytes = max(0, self.left_bytes - length * BLOCK_BYTES)
            self._meter.add(length * BLOCK_BYTES, self._clock.now_s())
        self.pump()

    # ------------------------------------------------------------ clearing bits

    def _flush_batch(self) -> None:
        self._covered, self._batch = self._batch, []
        self._batch_bytes = 0
        self._flushes_left = 2
        self._channel.flush(_Barrier(self), copy=True)

        def flushed_here(error: StoreError | None) -> None:
            if error is not None:
                self.stop()
            else:
                self.flushed()

        self._volume.flush_store(flushed_here)

    def flushed(self) -> None:
        """One of the two sides has flushed the covered batch."""
        if not self._active:
            return
        self._flushes_left -= 1
        if self._flushes_left:
            return
        for first, count in self._covered:
            self._bitmap.clear(first, count)
        self._covered = []
        self._channel.control(Cleared().model_dump())
        self.pump()

    def _end_of_pass(self) -> None:
        if self._flushes_left or self._comparing:
            return
        if self._batch:
            self._flush_batch()
            if not self._flushes_left:
                self._again(0)
        elif len(self._bitmap):
            # Behind the cursor: blocks that were in doubt and differ, or a store failed a write.
            self._cursor = 0
            self.left_bytes = self._bitmap.dirty_bytes
            self._again(0)
        else:
            self.stop()
            self.ended = True
            self._done()
