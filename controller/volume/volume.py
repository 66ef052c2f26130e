"""A volume: a block store, its write-intent log, and the pairs that track it.

Owns the order of writes. A write waits its turn in one queue only when its extent is cold or a
generation must begin; then it is submitted to the store and handed to every pair in one step,
so the order of that step is the order every mirror sees (law S1). Must not know what a pair does
with it. Fails a command with LunError; a failed flush or log fails the volume for good (law L10).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from controller.volume.gate import Gates
from controller.volume.intent import IntentLog
from controller.volume.losses import PowerLosses
from controller.volume.services import VolumeServices, VolumeState
from controller.volume.settling import then_save_bits
from controller.volume.slots import SlotRing
from controller.volume.store import BlockStore, StoreDone, StoreError
from controller.volume.tracker import Tracker, announce
from controller.volume.write import JoinedParts, StoreAnswer, WriteOp, flushed_first, lun_error
from targets.lun import Access, Done, LunError, LunFault, LunIdentity

MAX_STEP_BYTES = 32 << 20
"""A longer write or discard is carried out in steps, so that one can't stop the loop."""

_OPEN, _READ_ONLY, _NOT_READY = Access.READ_WRITE, Access.READ_ONLY, Access.NOT_READY


class Volume:
    """A logical unit (`targets.lun.LogicalUnit`) that pairs can track."""

    def __init__(
        self,
        state: VolumeState,
        identity: LunIdentity,
        store: BlockStore,
        services: VolumeServices,
        *,
        intent_ring: SlotRing | None,
        extent_bytes: int,
        hot_extents: int,
    ) -> None:
        self.state = state
        self.identity = identity
        self.store = store
        self.size_bytes = store.size_bytes
        """What hosts have: less than the store while that is being lengthened."""
        self.trackers: list[Tracker] = []
        self.gates = Gates(extent_bytes)
        self.losses = PowerLosses(state, services.commit)
        self.access = _OPEN
        self.views = 0
        self.sessions: Callable[[], int] = lambda: 0
        self._services = services
        self._extent_bytes = extent_bytes
        # A step must find room in the hot set beside others, or it would wait for ever.
        self._step_bytes = min(MAX_STEP_BYTES, extent_bytes * max(1, hot_extents // 4))
        self._queue: deque[WriteOp | Callable[[], None]] = deque()
        self._in_flight = 0
        self._storing = 0
        self._idle_waiters: list[Callable[[], None]] = []
        self._beginning_generation = False
        self._failure: StoreError | None = None
        self._draining = False
        self.intent: IntentLog | None = None
        if intent_ring is not None:
            self.intent = IntentLog(
                intent_ring,
                extent_bytes=extent_bytes,
                extents=-(-self.size_bytes // extent_bytes),
                limit=hot_extents,
                settle=self.settle,
                ready=self._drain,
                failed=self.fail,
                soon=services.soon,
                announce=partial(announce, self.trackers),
            )
        self.update_access()

    @property
    def name(self) -> str:
        """The volume's name on its controller."""
        return self.state.name

    # ------------------------------------------------------------ hosts

    def read(self, offset_bytes: int, into: memoryview, done: Done) -> None:
        """Fill `into`; refused while the content isn't one point in time."""
        if self.access is _NOT_READY:
            done(LunError(LunFault.NOT_READY, self.name))
            return
        self.store.read(offset_bytes, into, StoreAnswer(done, reading=True).ended)

    def write(self, offset_bytes: int, data: memoryview, fua: bool, done: Done) -> None:
        """Store and mirror `data`."""
        refusal = self._refusal()
        if refusal is not None:
            done(LunError(refusal, self.name))
            return
        answer = flushed_first(self.flush, done) if fua else done
        plain = not (self.trackers or self._queue) and self.store.writes_at_once
        if plain and len(data) <= self._step_bytes:  # it ends at once, and nobody follows it
            self.store.write(offset_bytes, data, StoreAnswer(answer, reading=False).ended)
        else:
            self._steps(offset_bytes, len(data), data, answer, None)

    def discard(self, offset_bytes: int, length_bytes: int, done: Done) -> None:
        """Deallocate and mirror that, step by step."""
        refusal = self._refusal()
        if refusal is not None:
            done(LunError(refusal, self.name))
            return
        self._steps(offset_bytes, length_bytes, None, done, None)

    def flush(self, done: Done) -> None:
        """Make everything acknowledged durable, here and on the mirrors that belong to it."""
        if self._failure is not None:
            done(lun_error(self._failure, reading=False))
            return
        flush = JoinedParts(done)
        flush.hold()
        for tracker in self.trackers:
            tracker.mirror_flush(flush)
        self.flush_store(lambda e: flush.end(None if e is None else lun_error(e, reading=False)))
        flush.end()

    def _refusal(self) -> LunFault | None:
        if self.access is not _OPEN:
            return LunFault.NOT_READY if self.access is _NOT_READY else LunFault.WRITE_PROTECTED
        for tracker in self.trackers:
            fault = tracker.gate()
            if fault is not None:
                return fault
        return None

    # ------------------------------------------------------------ pairs

    def apply(self, offset_bytes: int, data: memoryview, source: Tracker, done: Done) -> None:
        """Store what came from a pair; tracked for every other pair (law L6).

        `data` need only be valid during the call.
        """
        first = offset_bytes // self._extent_bytes
        last = (offset_bytes + len(data) - 1) // self._extent_bytes
        at_once = self.store.writes_at_once and not self._queue
        if not (at_once and self._may_go(first, last, source)):
            data = memoryview(bytes(data))
        self._steps(offset_bytes, len(data), data, done, source)

    def apply_discard(
        self, offset_bytes: int, length_bytes: int, source: Tracker, done: Done
    ) -> None:
        """Discard what the other side discarded."""
        self._steps(offset_bytes, length_bytes, None, done, source)

    def is_hole(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether a range holds nothing, and no write that was accepted may change that."""
        if self._queue or self._storing:
            return False
        data_at = self.store.next_data(offset_bytes)
        return data_at is None or data_at >= offset_bytes + length_bytes

    def barrier(self, run: Callable[[], None]) -> None:
        """Call `run` at this point of the write order: all before is stored, nothing after is."""
        self._queue.append(run)
        self._drain()

    @property
    def idle(self) -> bool:
        """Whether no write is queued or in flight."""
        return not (self._in_flight or self._queue)

    def drained(self, run: Callable[[], None]) -> None:
        """Call `run` when no write is queued or in flight. The caller has closed the door."""
        self._idle_waiters.append(run)
        self._wake_idle()

    def settle(self, done: StoreDone) -> None:
        """Flush the store, then save every pair's bits: what an extent's leaving needs."""
        self.flush_store(then_save_bits(self.trackers, done))

    def flush_store(self, done: StoreDone) -> None:
        """Flush this volume alone; a failure fails the volume (law L10).

        A flush that ends well behind one that failed has saved nothing of what that one lost:
        it has failed, too.
        """
        if self._failure is not None:
            done(self._failure)
            return

        def flushed(error: StoreError | None) -> None:
            if error is not None:
                self.fail(error)
            done(self._failure)

        self.store.flush(flushed)

    def update_access(self) -> None:
        """Work out anew what hosts may do; called by whoever changed a cause."""
        if self._failure is not None or not self.state.healthy or not self.state.consistent:
            access = _NOT_READY
        else:
            votes = {t.access for t in self.trackers} | {_READ_ONLY if self.views else _OPEN}
            access = next(each for each in (_NOT_READY, _READ_ONLY, _OPEN) if each in votes)
        self.access = access
        self._services.changed(self)

    def fail(self, error: StoreError) -> None:
        """The store or the log can't be trusted: no acknowledgement from here on (law L10)."""
        if self._failure is not None:
            return
        self._failure = error
        self.state.healthy = False
        self.update_access()
        for tracker in list(self.trackers):
            tracker.volume_failed(error)
        queue, self._queue = self._queue, deque()
        for entry in queue:
            if isinstance(entry, WriteOp):
                entry.refuse(lun_error(error, reading=False))
            else:
                entry()
        self._services.commit(lambda _error: None)

    # ------------------------------------------------------------ the order of writes

    def _steps(
        self,
        offset_bytes: int,
        length_bytes: int,
        data: memoryview | None,
        answer: Done,
        source: Tracker | None,
    ) -> None:
        """Accept a write as one op, or as several with one answer where it is very long."""
        step_bytes = self._step_bytes
        if length_bytes <= step_bytes:
            self._accept(self._op(offset_bytes, length_bytes, data, answer, source))
            return
        joined = JoinedParts(answer)
        for at in range(0, length_bytes, step_bytes):
            size = min(step_bytes, length_bytes - at)
            piece = None if data is None else data[at : at + size]
            joined.hold()
            self._accept(self._op(offset_bytes + at, size, piece, joined.end, source))
        joined.end()

    def _op(
        self,
        offset_bytes: int,
        length_bytes: int,
        data: memoryview | None,
        answer: Done,
        source: Tracker | None,
    ) -> WriteOp:
        self._in_flight += 1
        return WriteOp(
            offset_bytes,
            length_bytes,
            data,
            source=source,
            extent_bytes=self._extent_bytes,
            answer=answer,
            on_stored=self._stored,
            over=self._over,
        )

    def _accept(self, op: WriteOp) -> None:
        if self._failure is not None:
            op.refuse(lun_error(self._failure, reading=False))
        elif self._queue or not self._ready(op):
            self._queue.append(op)
            if self.trackers:
                self._want(op)
            if len(self._queue) == 1:
                self._drain()
        else:
            self._submit(op)

    def _ready(self, op: WriteOp) -> bool:
        return self._may_go(op.first_extent, op.last_extent, op.source)

    def _may_go(self, first: int, last: int, source: Tracker | None) -> bool:
        """Whether a write to these extents could be submitted now, but for the queue."""
        if not self.trackers:
            return True
        if self.intent is not None and not self.intent.covers(first, last):
            return False
        if self.gates and not self.gates.pass_all(first, last):
            return False
        if self._beginning_generation:
            return False
        return not any(
            tracker is not source and tracker.wants_generation for tracker in self.trackers
        )

    def _want(self, op: WriteOp) -> None:
        if self.intent is not None:
            self.intent.want(op.first_extent, op.last_extent)
        self.gates.want(op.first_extent, op.last_extent)

    def gate_opened(self) -> None:
        """A gate lets more pass than before."""
        self._drain()

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                head = self._queue[0]
                if not isinstance(head, WriteOp):
                    if self._storing:
                        return
                    self._queue.popleft()
                    head()
                elif self._failure is not None:
                    self._queue.popleft()
                    head.refuse(lun_error(self._failure, reading=False))
                elif self._ready(head):
                    self._queue.popleft()
                    self._submit(head)
                else:
                    self._prepare(head)
                    return
        finally:
            self._draining = False
        self._wake_idle()

    def _prepare(self, op: WriteOp) -> None:
        first, last = op.first_extent, op.last_extent
        covered = self.intent is None or self.intent.covers(first, last)
        if not (covered and self.gates.pass_all(first, last)):
            self._want(op)
        elif not self._beginning_generation:
            self._begin_generation(op.source)

    def _begin_generation(self, source: Tracker | None) -> None:
        self._beginning_generation = True
        generation = self._services.new_generation()
        self.state.generation = generation
        for tracker in self.trackers:
            if tracker is not source and tracker.wants_generation:
                tracker.begin_generation(generation)

        def committed(error: StoreError | None) -> None:
            self._beginning_generation = False
            if error is not None:
                self.fail(error)
            self._drain()

        self._services.commit(committed)

    def _submit(self, op: WriteOp) -> None:
        if self.intent is not None and self.trackers:
            for extent in range(op.first_extent, op.last_extent + 1):
                self.intent.hot.pin(extent)
        else:
            op.first_extent = -1
        self._storing += 1
        op.hold()
        if op.data is None:
            self.store.discard(op.offset_bytes, op.length_bytes, op.stored)
        else:
            self.store.write(op.offset_bytes, op.data, op.stored)
        if op.error is None:
            for tracker in self.trackers:
                if tracker is not op.source:
                    tracker.mirror(op)
        op.end()

    def _stored(self, op: WriteOp, error: StoreError | None) -> None:
        """The store has answered."""
        self._storing -= 1
        if error is not None:
            for tracker in list(self.trackers):
                tracker.store_failed(op, error)
        if self._queue and not self._storing:
            self._drain()

    def _over(self, op: WriteOp) -> None:
        self._in_flight -= 1
        if self.intent is not None and op.first_extent >= 0:
            hot = self.intent.hot
            for extent in range(op.first_extent, op.last_extent + 1):
                hot.unpin(extent)
            self.intent.turn()
        if self._idle_waiters:
            self._wake_idle()

    def _wake_idle(self) -> None:
        if self._in_flight == 0 and not self._queue:
            waiters, self._idle_waiters = self._idle_waiters, []
            for waiter in waiters:
                waiter()
