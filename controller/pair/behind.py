"""The copy behind a quick split: the S-VOL gets what the P-VOL held at the instant of the split.

Owns the gate before the P-VOL's writes and the order of copying: what a write waits for first, the
rest in the background. A block is held from the instant of the split until its content of that
instant is on the S-VOL's disk and both copies of the owed blocks say so on theirs; then its mark
is cleared (law L2) and writes to it go on. A held block can't change, so it is read without a
look at writes. Must not decide when a split is made, ended or given up: `controller.pair.quick`
does, and is told by `done` or `failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from controller.api.messages import Progress
from controller.link.channel import Channel
from controller.link.frames import MAX_DISCARD_BYTES
from controller.pair.copier import DISCARD_WEIGHT_BYTES, STEP_BYTES, WINDOW_BYTES, Clock
from controller.pair.messages import Cleared
from controller.pair.pace import Meter, RateCap
from controller.pair.reading import CHUNK_BYTES
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap
from controller.volume.owed import OwedBlocks
from controller.volume.store import SharingStore, StoreError
from controller.volume.volume import Volume

BATCH_BYTES = 8 << 20
"""Copied in the background before a flush: a write that waits must not wait for much more."""


class _Piece:
    """The ticket of one copied piece."""

    __slots__ = ("behind", "weight_bytes")

    def __init__(self, behind: CopyBehind, weight_bytes: int) -> None:
        self.behind = behind
        self.weight_bytes = weight_bytes

    def acked(self) -> None:
        self.behind.piece_acked(self.weight_bytes)

    def lost(self) -> None:
        self.behind.lost()


class _Barrier:
    """The ticket of a batch's flush on the S-VOL."""

    __slots__ = ("behind", "kept")

    def __init__(self, behind: CopyBehind, kept: list[tuple[int, int]]) -> None:
        self.behind = behind
        self.kept = kept

    def acked(self) -> None:
        self.behind.flushed(self.kept)

    def lost(self) -> None:
        self.behind.lost()


class CopyBehind:
    """Shut when made: every write waits until `open` says what is owed, and that it is on disk."""

    def __init__(
        self,
        volume: Volume,
        marks: DirtyBitmap,
        clock: Clock,
        rate_limit_bytes_per_s: int | None,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._volume = volume
        self._store = volume.store
        self._marks = marks
        self._clock = clock
        self._done = done
        self._failed = failed
        self._cap = RateCap(rate_limit_bytes_per_s, clock.now_s())
        self._meter = Meter(clock.now_s())
        self._channel: Channel | None = None
        self._target: SharingStore | None = None
        self._todo = DirtyBitmap(marks.blocks)
        self._cursor = 0
        self._wanted: dict[tuple[int, int], None] = {}
        """First block and end of what writes wait for and nobody has looked at yet."""
        self._hurry = False
        """A write waits for something that is in the batch."""
        self._batch: list[tuple[int, int]] = []
        self._batch_bytes = 0
        self._buffer = bytearray(CHUNK_BYTES)
        self._reading = self._pumping = self._discharging = False
        self._in_flight_bytes = 0
        self._cancel_timer: Callable[[], None] | None = None
        self.owed: OwedBlocks | None = None
        """Known while it is on disk, and the split with it: from then on what isn't held passes."""
        self.active = True
        self.ended = False
        """Everything is copied, and nothing is owed on disk any more."""
        self.union_bytes = 0

    # ------------------------------------------------------------ the gate

    def passes(self, start_bytes: int, end_bytes: int) -> bool:
        """Whether nothing in the range is held."""
        return self.owed is not None and not self._held_in(start_bytes, end_bytes)

    def _held_in(self, start_bytes: int, end_bytes: int) -> int:
        assert self.owed is not None
        held = self.owed.held
        first, end = start_bytes // BLOCK_BYTES, min(end_bytes // BLOCK_BYTES, held.blocks)
        return held.count_in(first, end - first) if len(held) else 0

    def want(self, start_bytes: int, end_bytes: int) -> None:
        """A write waits: what it needs is copied next."""
        self._wanted[start_bytes // BLOCK_BYTES, end_bytes // BLOCK_BYTES] = None
        if self._channel is not None:
            self._again(0)

    # ------------------------------------------------------------ switched by the owner

    def open(self, owed: OwedBlocks, channel: Channel, target: SharingStore | None = None) -> None:
        """What is owed is on disk: copy it, and let pass what isn't.

        `target` is the S-VOL's store, where it may share what is held with the P-VOL's.
        """
        assert self._channel is None, "what is on its way would be copied twice"
        self.owed = owed
        self._target = target
        if target is not None:
            target.share_with(self._store, owed.held)
        self._channel = channel
        self._todo.union(owed.held)
        self.union_bytes = self._todo.dirty_bytes
        self._volume.gate_opened()
        self._again(0)

    @property
    def copying(self) -> bool:
        """Whether it has begun and may go on: what is held can't be overwritten meanwhile."""
        return self.active and self._channel is not None

    def stop(self) -> None:
        """Copy no more. What is held stays held."""
        self.active = False
        if self._target is not None:
            # What is held may be written over from here on.
            self._target.share_with(None, None)
        if self._cancel_timer is not None:
            self._cancel_timer()

    def progress(self) -> Progress:
        """How far it is."""
        left_bytes = self.union_bytes if self.owed is None else self.owed.held.dirty_bytes
        return Progress(
            done_bytes=max(0, self.union_bytes - left_bytes),
            left_bytes=left_bytes,
            rate_bytes_per_s=self._meter.rate_bytes_per_s,
            eta_s=self._meter.eta_s(left_bytes),
        )

    # ------------------------------------------------------------ copying

    def _again(self, delay_s: float) -> None:
        if self._cancel_timer is not None:
            self._cancel_timer()
        self._cancel_timer = self._clock.later(delay_s, self._pump) if self.active else None

    def _pump(self) -> None:
        if self._pumping or not self.active or self._channel is None:
            return
        self._pumping = True
        sent_bytes = 0
        while self._may_send():
            if sent_bytes >= STEP_BYTES:
                self._again(0)
                break
            run = self._next_wanted() or self._next_in_background()
            if run is None:
                break
            sent_bytes += self._send(*run)
        self._pumping = False
        self._discharge()

    def _may_send(self) -> bool:
        return self.active and not self._reading and self._in_flight_bytes < WINDOW_BYTES

    def _next_wanted(self) -> tuple[int, int] | None:
        while self._wanted:
            first, end = next(iter(self._wanted))
            run = self._todo.next_run(first, end - first)
            if run is not None and run[0] < end:
                self._hurry = True
                return run[0], min(run[1], end - run[0])
            del self._wanted[first, end]
            self._hurry |= bool(self._held_in(first * BLOCK_BYTES, end * BLOCK_BYTES))
        return None

    def _next_in_background(self) -> tuple[int, int] | None:
        if self._hurry or self._batch_bytes >= BATCH_BYTES:
            return None
        run = self._todo.next_run(self._cursor, MAX_DISCARD_BYTES // BLOCK_BYTES)
        if run is None and self._cursor:
            self._cursor = 0
            run = self._todo.next_run(0, MAX_DISCARD_BYTES // BLOCK_BYTES)
        if run is None:
            return None
        delay_s = self._cap.delay_s(self._clock.now_s())
        if delay_s > 0:
            self._again(delay_s)
            return None
        self._cursor = run[0]
        return run

    def _send(self, first: int, count: int) -> int:
        assert self._channel is not None
        offset_bytes = first * BLOCK_BYTES
        data_at = self._store.next_data(offset_bytes)
        if data_at is None or data_at >= offset_bytes + BLOCK_BYTES:
            if data_at is not None:
                count = min(count, data_at // BLOCK_BYTES - first)
            self._sent(first, count, DISCARD_WEIGHT_BYTES)
            piece = _Piece(self, DISCARD_WEIGHT_BYTES)
            self._channel.discard(offset_bytes, count * BLOCK_BYTES, piece, copy=True)
            return DISCARD_WEIGHT_BYTES
        count = min(count, CHUNK_BYTES // BLOCK_BYTES)
        self._reading = True
        data = memoryview(self._buffer)[: count * BLOCK_BYTES]
        self._store.read(offset_bytes, data, partial(self._read, first, count, data))
        return len(data)

    def _read(self, first: int, count: int, data: memoryview, error: StoreError | None) -> None:
        self._reading = False
        if not self.active or self._channel is None:
            return
        if error is not None:
            self._fail(f"the P-VOL can't be read: {error}")
            return
        self._sent(first, count, len(data))
        self._cap.spent(len(data))
        self._channel.write(first * BLOCK_BYTES, data, _Piece(self, len(data)), copy=True)
        self._pump()

    def _sent(self, first: int, count: int, weight_bytes: int) -> None:
        self._todo.clear(first, count)
        self._batch.append((first, count))
        self._batch_bytes += weight_bytes
        self._in_flight_bytes += weight_bytes

    def piece_acked(self, weight_bytes: int) -> None:
        """The S-VOL has a piece, in its cache."""
        self._in_flight_bytes -= weight_bytes
        self._pump()

    # ------------------------------------------------------------ letting go

    def _discharge(self) -> None:
        """Begin to make a batch durable, where it is time for that."""
        due = self._hurry or self._batch_bytes >= BATCH_BYTES or not len(self._todo)
        if not self.active or self._discharging or self._reading or self._wanted or not due:
            return
        if not self._batch:
            if len(self._todo):
                # What a write hurried for has been flushed meanwhile: on with the rest.
                self._hurry = False
                self._again(0)
            elif not self.ended:
                self.ended = True
                self._done()
            return
        assert self._channel is not None
        kept, self._batch = self._batch, []
        self._batch_bytes = 0
        self._hurry = False
        self._discharging = True
        self._channel.flush(_Barrier(self, kept), copy=True)

    def flushed(self, kept: list[tuple[int, int]]) -> None:
        """The S-VOL has flushed them: say so on disk."""
        if self.active and self.owed is not None:
            self.owed.discharge(kept, partial(self._discharged, kept))

    def _discharged(self, kept: list[tuple[int, int]], error: StoreError | None) -> None:
        if not self.active or self._channel is None:
            return
        if error is not None:
            self._fail(f"what is owed can't be written down: {error}")
            return
        self._discharging = False
        size_bytes = 0
        for first, count in kept:
            self._marks.clear(first, count)
            size_bytes += count * BLOCK_BYTES
        self._meter.add(size_bytes, self._clock.now_s())
        self._channel.control(Cleared().model_dump())
        self._volume.gate_opened()
        self._again(0)

    def lost(self) -> None:
        """The S-VOL has refused something."""
        self._fail("the S-VOL can't be written")

    def _fail(self, reason: str) -> None:
        if self.active:
            self.stop()
            self._failed(reason)
