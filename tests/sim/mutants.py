"""Planted bugs: each one breaks a law on purpose, and the simulator has to find it.

Owns the list of mutants and the hunt for one. A mutant replaces a method of the controller from
outside, in this process, for as long as it is planted; nothing of it is in production code. One
that no longer fits the code fails to be planted with AttributeError, which a test asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import controller.pair.side as side_module
import controller.volume.slots as slots_module
import controller.volume.volume as volume_module
from controller.api.messages import Mode, PairKind, PairState
from controller.link.stream import Stream
from controller.pair.conversation import Conversation
from controller.pair.copier import Copier
from controller.pair.follower import Follower
from controller.pair.leader import Leader
from controller.pair.owner import PairOwner
from controller.pair.reading import SourceReader
from controller.pair.side import PairSide
from controller.pair.tickets import Mirrored
from controller.pairs import Pairs
from controller.volume.bitmap import BLOCK_BYTES
from controller.volume.bitmap_file import BitmapFile
from controller.volume.intent import HotExtents, IntentLog
from controller.volume.overlay import OverlayStore
from controller.volume.store import StoreDone, StoreError
from controller.volume.volume import Volume
from controller.volume.write import JoinedParts, WriteOp, lun_error
from targets.lun import Access, Done
from tests.sim.run import run_seed
from tests.sim.seeds import judged

Patch = tuple[Any, str, Any]
"""What is replaced: an object, the name of its attribute, and the bug."""


@dataclass(frozen=True)
class Mutant:
    """A planted bug and the law it breaks."""

    name: str
    law: str
    patches: Callable[[], list[Patch]]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The bug is there for as long as the block runs."""
        changed = [mock.patch.object(*patch) for patch in self.patches()]
        for patch in changed:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(changed):
                patch.stop()


# ------------------------------------------------------------ the write-intent log and the bits


def _settled_without_flush() -> list[Patch]:
    def settle(_volume: Volume, done: StoreDone) -> None:
        done(None)

    return [(Volume, "settle", settle)]


def _bits_not_saved() -> list[Patch]:
    def save(_side: PairSide, done: StoreDone) -> None:
        done(None)

    return [(PairSide, "save_bitmap", save)]


def _hot_taken_as_clean() -> list[Patch]:
    async def recover(_pairs: Pairs, _shelved: object) -> None:
        return

    return [(Pairs, "_recover", recover)]


def _written_before_intent() -> list[Patch]:
    real = HotExtents.pin

    def covers(_log: IntentLog, _first: int, _last: int) -> bool:
        return True

    def pin(hot: HotExtents, extent: int) -> None:
        hot.replace((), (extent,))
        real(hot, extent)

    return [(IntentLog, "covers", covers), (HotExtents, "pin", pin)]


def _torn_slot_accepted() -> list[Patch]:
    real = slots_module.decode_slot

    def decode(layout: Any, raw: Any) -> Any:
        header = slots_module._HEADER
        magic, _, _, length, sequence, _ = header.unpack_from(raw)
        if magic != layout.magic or length > layout.max_payload_bytes:
            return real(layout, raw)
        return sequence, bytes(raw[header.size : header.size + length])

    return [(slots_module, "decode_slot", decode)]


def _partly_written_block_unmarked() -> list[Patch]:
    def block_range(offset_bytes: int, length_bytes: int) -> tuple[int, int]:
        first = -(-offset_bytes // BLOCK_BYTES)
        return first, max(0, (offset_bytes + length_bytes) // BLOCK_BYTES - first)

    return [(side_module, "block_range", block_range)]


def _page_saved_once() -> list[Patch]:
    real = BitmapFile.save

    def save(file: BitmapFile, done: StoreDone) -> None:
        if file._saving:
            done(None)
        else:
            real(file, done)

    return [(BitmapFile, "save", save)]


# ------------------------------------------------------------ copies


def _bits_cleared_when_sent() -> list[Patch]:
    real = Copier._flush_batch

    def flush_batch(copier: Copier) -> None:
        for first, count in copier._batch:
            copier._bitmap.clear(first, count)
        real(copier)

    return [(Copier, "_flush_batch", flush_batch)]


def _read_races_write() -> list[Patch]:
    def overtake(_reader: SourceReader, _offset_bytes: int, _length_bytes: int) -> None:
        return

    return [(SourceReader, "overtake", overtake)]


def _other_bitmap_ignored() -> list[Patch]:
    def on_bitmap(_side: PairSide, _payload: bytes | memoryview, *, doubt: bool) -> None:
        return

    return [(PairSide, "on_bitmap", on_bitmap)]


def _every_discard_is_a_hole() -> list[Patch]:
    def is_hole(_volume: Volume, _offset_bytes: int, _length_bytes: int) -> bool:
        return True

    return [(Volume, "is_hole", is_hole)]


def _copied_back_under_hosts() -> list[Patch]:
    real: Callable[[PairSide], Access] = vars(PairSide)["access"].fget

    def access(side: PairSide) -> Access:
        state = side.record.state
        return Access.READ_WRITE if state is PairState.RCPY else real(side)

    return [(PairSide, "access", property(access))]


# ------------------------------------------------------------ mirrors and splits


def _chain_dropped() -> list[Patch]:
    real = PairSide.mirror

    def mirror(side: PairSide, op: WriteOp) -> None:
        if op.source is None:
            real(side, op)

    return [(PairSide, "mirror", mirror)]


def _lost_write_unmarked() -> list[Patch]:
    return [(Mirrored, "lost", Mirrored.acked)]


def _split_overtakes_writes() -> list[Patch]:
    def barrier(_volume: Volume, run: Callable[[], None]) -> None:
        run()

    return [(Volume, "barrier", barrier)]


def _split_keeps_on_mirroring() -> list[Patch]:
    real = Leader.begin_split

    def begin_split(leader: Leader, label: str, *, writable: bool) -> None:
        side = leader._side
        was_mirroring = side.mirroring
        real(leader, label, writable=writable)
        # The other side has split by then, and acknowledges what it ignores.
        side.mirroring = was_mirroring

    return [(Leader, "begin_split", begin_split)]


def _split_not_flushed() -> list[Patch]:
    async def split_stored(follower: Follower, done: Any) -> None:
        follower._record.settled = True
        follower._side.volume.update_access()
        await follower._owner.services.commit()
        follower._owner.talk.send(done)

    return [(Follower, "split_stored", split_stored)]


def _stale_acks_counted() -> list[Patch]:
    real = Stream.close

    def close(stream: Stream) -> None:
        if stream.open:
            stream._ack(stream._next_out - 1)
        real(stream)

    return [(Stream, "close", close)]


def _done_before_the_peer() -> list[Patch]:
    real = PairSide.mirror

    def mirror(side: PairSide, op: WriteOp) -> None:
        record = side.record
        mode = record.mode
        if record.kind is PairKind.REMOTE:
            record.mode = Mode.ASYNC
        real(side, op)
        record.mode = mode

    return [(PairSide, "mirror", mirror)]


def _hosts_let_in_too_early() -> list[Patch]:
    async def all_stored(_owner: PairOwner) -> None:
        return

    return [(PairOwner, "all_stored", all_stored)]


def _door_closed_too_late() -> list[Patch]:
    async def drained(_owner: PairOwner) -> None:
        return

    return [(PairOwner, "drained", drained)]


def _epoch_not_checked() -> list[Patch]:
    def still(_talk: Conversation, _channel: object) -> None:
        return

    return [(Conversation, "still", still)]


# ------------------------------------------------------------ hosts


def _failed_write_unmarked() -> list[Patch]:
    def store_failed(_side: PairSide, _op: WriteOp, _error: StoreError) -> None:
        return

    return [(PairSide, "store_failed", store_failed)]


def _failed_flush_ignored() -> list[Patch]:
    def fail(_volume: Volume, _error: StoreError) -> None:
        return

    return [(Volume, "fail", fail)]


def _write_overtakes_queue() -> list[Patch]:
    real = Volume._accept

    def accept(volume: Volume, op: WriteOp) -> None:
        if volume._failure is None and volume._ready(op):
            volume._submit(op)
        else:
            real(volume, op)

    return [(Volume, "_accept", accept)]


def _flush_retried() -> list[Patch]:
    def flush(volume: Volume, done: Done) -> None:
        def flushed(error: StoreError | None) -> None:
            if error is not None:
                volume.store.flush(flushed)
            else:
                joined.end()

        joined = JoinedParts(done)
        volume.store.flush(flushed)

    return [(Volume, "flush", flush)]


def _fua_not_flushed() -> list[Patch]:
    def flushed_first(_flush: Callable[[Done], None], answer: Done) -> Done:
        return answer

    return [(volume_module, "flushed_first", flushed_first)]


def _flush_answered_early() -> list[Patch]:
    def flush(volume: Volume, done: Done) -> None:
        volume.store.flush(lambda _error: None)
        failure = volume._failure
        done(None if failure is None else lun_error(failure, reading=False))

    return [(Volume, "flush", flush)]


def _view_writes_through() -> list[Patch]:
    def write(view: OverlayStore, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        view._base.write(offset_bytes, data, done)

    return [(OverlayStore, "write", write)]


MUTANTS = [
    Mutant("extent leaves without a flush", "L1", _settled_without_flush),
    Mutant("extent leaves without its bits", "L1", _bits_not_saved),
    Mutant("hot extents read as clean", "L1", _hot_taken_as_clean),
    Mutant("data before intent", "L4", _written_before_intent),
    Mutant("torn slot accepted", "L1", _torn_slot_accepted),
    Mutant("partly written block unmarked", "L1", _partly_written_block_unmarked),
    Mutant("save answered by another save", "L1", _page_saved_once),
    Mutant("bits cleared when sent", "L2", _bits_cleared_when_sent),
    Mutant("resync read races a write", "L3", _read_races_write),
    Mutant("other side's bitmap ignored", "L3", _other_bitmap_ignored),
    Mutant("copied hole skipped", "L3", _every_discard_is_a_hole),
    Mutant("copied back under its hosts", "L12", _copied_back_under_hosts),
    Mutant("chain law dropped", "L6", _chain_dropped),
    Mutant("lost write not marked", "L1", _lost_write_unmarked),
    Mutant("split overtakes queued writes", "L11", _split_overtakes_writes),
    Mutant("split goes on mirroring", "L11", _split_keeps_on_mirroring),
    Mutant("split not flushed", "L7", _split_not_flushed),
    Mutant("stale acks counted", "L9", _stale_acks_counted),
    Mutant("sync write done before the peer", "SYNC", _done_before_the_peer),
    Mutant("hosts let in too early", "L7", _hosts_let_in_too_early),
    Mutant("copy begins before writes end", "L6", _door_closed_too_late),
    Mutant("epoch not checked", "L9", _epoch_not_checked),
    Mutant("failed write not marked", "L10", _failed_write_unmarked),
    Mutant("failed flush ignored", "L10", _failed_flush_ignored),
    Mutant("write overtakes queued write", "L3", _write_overtakes_queue),
    Mutant("failed fsync retried", "L10", _flush_retried),
    Mutant("FUA not flushed", "L5", _fua_not_flushed),
    Mutant("flush answered early", "L5", _flush_answered_early),
    Mutant("view writes through", "L13", _view_writes_through),
]


@dataclass(frozen=True)
class Hunt:
    """How the hunt for a mutant ended: `law` is empty when it was not found."""

    index: int
    seeds: int
    seed: int = -1
    law: str = ""


def hunt(task: tuple[int, int, int]) -> Hunt:
    """Run seeds with a mutant planted until one fails that passes without it.

    The task is the mutant's index, the first seed, and how many seeds to try.
    """
    index, first, limit = task
    for count, seed in enumerate(range(first, first + limit), 1):
        law = law_broken_by(MUTANTS[index], seed)
        if law and not judged(seed).broke:
            return Hunt(index, count, seed, law)
    return Hunt(index, limit)


def law_broken_by(mutant: Mutant, seed: int) -> str:
    """The law that a seed breaks with the mutant planted, or an empty text."""
    with mutant.planted():
        try:
            return run_seed(seed).law
        except Exception as error:  # noqa: BLE001  (a planted bug may break anything)
            return type(error).__name__
