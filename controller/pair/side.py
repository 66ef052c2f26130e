"""One side of a pair on the data path: what happens to each write, here and on the stream.

Owns the side's bitmap and its three modes: *mirroring* (source: host writes are sent on),
*sinking* (target: frames are applied) and neither (writes are marked). Implements the volume's
`Tracker` and the link's `Receiver`; everything runs in the step that submits the write, and
nothing here awaits. Must not decide where the pair goes: state is changed by the owner task
(`controller.pair.owner`), which this side tells what happened.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.api.messages import Fence, Mode, PairKind, PairState, Role
from controller.link.channel import Applied, Channel, Compared, Control
from controller.pair.behind import CopyBehind
from controller.pair.comparing import Comparer
from controller.pair.copier import Clock, Copier, CopyFailed
from controller.pair.events import SideEvents
from controller.pair.exchange import encode, merge
from controller.pair.messages import Started, parse
from controller.pair.pace import Meter
from controller.pair.reading import SourceReader
from controller.pair.record import OPEN_TO_HOSTS, PairRecord
from controller.pair.tickets import Flushed, Mirrored
from controller.pair.verifier import Verifier
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, block_range, runs_of
from controller.volume.bitmap_file import BitmapFile
from controller.volume.intent import Range
from controller.volume.store import StoreDone, StoreError
from controller.volume.tracker import FlushOp
from controller.volume.volume import Volume
from controller.volume.write import WriteOp
from targets.lun import Access, LunError, LunFault

ASYNC_BACKLOG_BYTES = 64 << 20
"""In async mode a write beyond this backlog waits for its acknowledgement like a sync one."""


class PairSide:
    """A side: its record, its bitmap, its volume, and its way to the other side."""

    def __init__(
        self,
        record: PairRecord,
        volume: Volume,
        bitmap: DirtyBitmap,
        bitmap_file: BitmapFile,
        clock: Clock,
    ) -> None:
        self.record = record
        self.volume = volume
        self.bitmap = bitmap
        self.bitmap_file = bitmap_file
        self.clock = clock
        self.channel: Channel | None = None
        self.mirroring = False
        self.sinking = False
        self.peer_suspended = False
        """The other side is known not to take writes for this pair (fence level status)."""
        self.doubt: DirtyBitmap | None = None
        """What is marked only because a crash, of this side or the other, may have changed it."""
        self.replaced = False
        """A copy back has ended, and hosts have not been told that the data is another one."""
        self.copier: Copier | None = None
        self.verifier: Verifier | None = None
        """The last comparison, or the one that runs."""
        self.reader: SourceReader | None = None
        """What reads the volume for the copier or the verifier."""
        self.behind: CopyBehind | None = None
        """What a quick split still owes to the S-VOL is copied by this."""
        self.comparer = Comparer(volume)
        self.events: SideEvents
        self.wire_bytes = 0
        self.counting_wire = False
        self.payload_bytes = 0
        self.union_bytes = 0
        self.discarded_bytes = 0
        self.compared_bytes = 0
        self.sink_left_bytes = 0
        self.meter = Meter(clock.now_s())
        self._received: list[tuple[int, int]] = []
        self._covered: list[tuple[int, int]] = []

    # ------------------------------------------------------------ Tracker

    @property
    def access(self) -> Access:
        """The table of what hosts may do, by role and state."""
        record = self.record
        if record.role is Role.P_VOL:
            if record.state is PairState.RCPY:
                return Access.NOT_READY
            return Access.READ_ONLY if record.closed else Access.READ_WRITE
        if record.state in OPEN_TO_HOSTS and record.writable and record.settled:
            return Access.READ_WRITE
        return Access.NOT_READY if record.state is PairState.COPY else Access.READ_ONLY

    @property
    def wants_generation(self) -> bool:
        """The sides have parted and this one wasn't written since."""
        record = self.record
        return not (self.mirroring or self.sinking) and record.current == record.baseline

    def begin_generation(self, generation: str) -> None:
        """The first write since."""
        self.record.begin_generation(generation)

    def gate(self) -> LunFault | None:
        """The fence level's word on a host's write."""
        return LunFault.FENCED if self._fenced() else None

    def fence_error(self) -> LunError | None:
        """How a write that was under way when the mirror failed is answered."""
        if self.record.fence is Fence.NEVER or (
            self.record.fence is Fence.STATUS and self.peer_suspended
        ):
            return None
        return LunError(LunFault.FENCED, f"pair {self.record.name} can't mirror")

    def _fenced(self) -> bool:
        record = self.record
        return (
            record.state is PairState.PSUE
            and record.role is Role.P_VOL
            and self.fence_error() is not None
        )

    def mirror_intent(self, ranges: list[Range]) -> None:
        """Let the other side's log commit while ours does."""
        if self.mirroring and self.channel is not None:
            self.channel.intent(ranges)

    def mirror(self, op: WriteOp) -> None:
        """Send the write on, or mark its blocks."""
        if self.reader is not None:
            self.reader.overtake(op.offset_bytes, op.length_bytes)
        channel = self.channel
        if not self.mirroring or channel is None:
            self.mark(op.offset_bytes, op.length_bytes)
            return
        answers = (
            self.record.mode is Mode.SYNC
            or self.record.kind is PairKind.LOCAL
            or channel.backlog_bytes > ASYNC_BACKLOG_BYTES
        )
        if answers:
            op.hold()
        else:
            op.pin()
        ticket = Mirrored(self, op, answers=answers)
        if op.data is None:
            channel.discard(op.offset_bytes, op.length_bytes, ticket, copy=False)
        else:
            channel.write(op.offset_bytes, op.data, ticket, copy=False)

    def mirror_flush(self, op: FlushOp) -> None:
        """Pass a flush on; a local mirror is no second machine, so it has no part in it."""
        if self.mirroring and self.channel is not None and self.record.kind is PairKind.REMOTE:
            op.hold()
            self.channel.flush(Flushed(self, op), copy=False)

    def store_failed(self, op: WriteOp, error: StoreError) -> None:
        """What the failed write left behind is unknown: mark it, and stop claiming a mirror."""
        self.mark(op.offset_bytes, op.length_bytes)
        if self.mirroring or self.sinking:
            self.events.store_failed(str(error))

    def volume_failed(self, error: StoreError) -> None:
        """The volume takes no more writes."""
        self.events.store_failed(str(error))

    def assume_dirty(self, offset_bytes: int, length_bytes: int) -> None:
        """A hot extent after a crash: what wasn't marked before is marked out of doubt."""
        length_bytes = min(length_bytes, self.volume.size_bytes - offset_bytes)
        doubt = self._doubts()
        for first, count in self.bitmap.clear_runs(*block_range(offset_bytes, length_bytes)):
            doubt.set(first, count)
        self.mark(offset_bytes, length_bytes)

    def _doubts(self) -> DirtyBitmap:
        if self.doubt is None:
            self.doubt = DirtyBitmap(self.bitmap.blocks)
        return self.doubt

    def save_bitmap(self, done: StoreDone) -> None:
        """Make the bits durable."""
        self.bitmap_file.save(done)

    def mark(self, offset_bytes: int, length_bytes: int) -> None:
        """Every block the range touches may differ."""
        self.bitmap.set(*block_range(offset_bytes, length_bytes))

    # ------------------------------------------------------------ Receiver

    def on_write(
        self, offset_bytes: int, data: memoryview, applied: Applied, *, copy: bool
    ) -> None:
        """Apply data of the source; ignored once this side no longer follows."""
        if not self._admits(offset_bytes, len(data), applied):
            return
        self.comparer.overtake(offset_bytes, len(data))
        if copy:
            self._note_copy(offset_bytes, len(data), len(data))
        self.volume.apply(offset_bytes, data, self, self._sink_done(applied))

    def on_discard(
        self, offset_bytes: int, length_bytes: int, applied: Applied, *, copy: bool
    ) -> None:
        """Apply a discard of the source."""
        if not self._admits(offset_bytes, length_bytes, applied):
            return
        self.comparer.overtake(offset_bytes, length_bytes)
        if copy:
            self._note_copy(offset_bytes, length_bytes, 0)
            if self.volume.is_hole(offset_bytes, length_bytes):
                # A copied hole that is one here already changes nothing, and logs nothing.
                applied("")
                return
        self.volume.apply_discard(offset_bytes, length_bytes, self, self._sink_done(applied))

    def _admits(self, offset_bytes: int, length_bytes: int, applied: Applied) -> bool:
        if not self.sinking:
            applied("")
            return False
        if offset_bytes + length_bytes > self.volume.size_bytes:
            self.events.store_failed(f"a write beyond the end, at {offset_bytes}")
            applied("beyond the end")
            return False
        return True

    def _sink_done(self, applied: Applied) -> Callable[[LunError | None], None]:
        def done(error: LunError | None) -> None:
            applied("" if error is None else str(error))

        return done

    def _note_copy(self, offset_bytes: int, length_bytes: int, payload_bytes: int) -> None:
        self._received.append(block_range(offset_bytes, length_bytes))
        self.payload_bytes += payload_bytes
        self.sink_left_bytes = max(0, self.sink_left_bytes - length_bytes)
        self.meter.add(length_bytes, self.clock.now_s())

    def on_flush(self, applied: Applied, *, copy: bool) -> None:
        """Flush the store behind everything that came before; a copy's flush in its turn."""
        if copy and self.channel is not None:
            self._covered, self._received = self._received, []
            self.channel.turns.take(self.clock.later, self._flush_copy, applied)
        else:
            self._flush(applied)

    def _flush_copy(self, applied: Applied) -> None:
        # While it waited the pair may have ended, and its volume may be gone.
        if self.sinking:
            self._flush(applied)
        else:
            applied("it follows no longer")

    def _flush(self, applied: Applied) -> None:
        def flushed(error: StoreError | None) -> None:
            applied("" if error is None else str(error))

        self.volume.barrier(lambda: self.volume.flush_store(flushed))

    def clear_covered(self) -> None:
        """The source says that both sides have flushed what the last copy flush covered."""
        for first, count in self._covered:
            self.bitmap.clear(first, count)
        self._covered = []

    def on_intent(self, ranges: list[Range]) -> None:
        """Make hot what will be written."""
        if self.sinking and self.volume.intent is not None:
            for offset_bytes, length_bytes in ranges:
                self.volume.intent.expect_writes(offset_bytes, length_bytes)

    def on_compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, answer: Compared, *, copy: bool
    ) -> None:
        """Compare; in a copy, what is equal counts as copied."""
        if not self.sinking or offset_bytes + length_bytes > self.volume.size_bytes:
            answer(None)
            return
        channel = self.channel

        def compared(differing: int | None) -> None:
            # An answer that comes in another epoch finds nobody, and proves nothing (law L9).
            if copy and differing is not None and self.channel is channel:
                self._note_equal(offset_bytes, length_bytes, differing)
            answer(differing)

        self.comparer.compare(offset_bytes, length_bytes, digests, compared)

    def _note_equal(self, offset_bytes: int, length_bytes: int, differing: int) -> None:
        first, count = block_range(offset_bytes, length_bytes)
        self.compared_bytes += length_bytes
        for at, blocks in runs_of(~differing & (1 << count) - 1):
            self._received.append((first + at, blocks))
            self.sink_left_bytes = max(0, self.sink_left_bytes - blocks * BLOCK_BYTES)
            self.meter.add(blocks * BLOCK_BYTES, self.clock.now_s())

    def on_control(self, message: Control) -> None:
        """Hand a message to the owner."""
        self.events.message(parse(message))

    def on_bitmap(self, payload: bytes | memoryview, *, doubt: bool) -> None:
        """Mark what the other side has marked: a union can only err on the safe side."""
        merge(self._doubts() if doubt else self.bitmap, payload)

    def on_open(self, channel: Channel) -> None:
        """A new epoch begins."""
        self.channel = channel
        self.events.opened(channel)

    def on_lost(self, reason: str) -> None:
        """The epoch is over: from here on writes are marked."""
        self.channel = None
        self.peer_suspended = False
        self.part()
        self.events.lost(reason)

    def count_wire(self, wire_bytes: int) -> None:
        """Add to the running resync's bill."""
        if self.counting_wire:
            self.wire_bytes += wire_bytes

    # ------------------------------------------------------------ modes, switched by the owner

    def begin_resync(self) -> None:
        """Start the bill of a resync."""
        self.wire_bytes = 0
        self.payload_bytes = 0
        self.union_bytes = 0
        self.discarded_bytes = 0
        self.compared_bytes = 0
        self.sink_left_bytes = 0
        self.counting_wire = True
        self.meter = Meter(self.clock.now_s())

    def bill(self) -> Started:
        """What the resync that begins now will copy."""
        return Started(union_bytes=self.union_bytes, discarded_bytes=self.discarded_bytes)

    def send_bitmap(self, channel: Channel) -> None:
        """Tell the other side what is marked here, and what of it out of doubt only."""
        for payload in encode(self.bitmap):
            channel.bitmap(payload)
        if self.doubt is not None:
            for payload in encode(self.doubt):
                channel.bitmap(payload, doubt=True)

    def start_copier(self, channel: Channel, done: Callable[[], None], failed: CopyFailed) -> None:
        """Copy what is marked to the other side."""
        self.copier = Copier(
            self.volume,
            self.bitmap,
            self.doubt,
            channel,
            self.clock,
            self.record.rate_limit_bytes_per_s,
            done,
            failed,
        )
        self.reader = self.copier.reader
        self.copier.pump()

    def end_copier(self) -> None:
        """The copy is over, well or not; its bill stays."""
        if self.copier is not None:
            self.copier.stop()
            self.payload_bytes = self.copier.payload_bytes
            self.compared_bytes = self.copier.compared_bytes
            self.copier = self.reader = None

    @property
    def verifying(self) -> bool:
        """Whether a comparison runs."""
        return self.verifier is not None and self.verifier.running

    def follow(self) -> None:
        """Become the target: frames are applied from here on."""
        self.mirroring = False
        self.sinking = True
        self._received = []
        self._covered = []

    def lead(self) -> None:
        """Become the source: host writes are sent on from here on."""
        self.sinking = False
        self.mirroring = True

    def part(self) -> None:
        """Neither: writes are marked from here on."""
        self.mirroring = False
        self.sinking = False
        self.end_copier()
        if self.verifier is not None:
            self.verifier.stop("the pair does not mirror any more")
