"""Bugs in copies: resyncs each way, what they clear, and what they may overwrite."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from controller.api.messages import PairState
from controller.pair.copier import Copier
from controller.pair.leader import Leader
from controller.pair.owner import PairOwner
from controller.pair.reading import SourceReader
from controller.pair.side import PairSide
from controller.pair.tickets import Mirrored
from controller.pairs import Pairs
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, block_range
from controller.volume.volume import Volume
from targets.lun import Access
from tests.sim.mutants.plant import Mutant, Patch


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


def _door_closed_too_late() -> list[Patch]:
    async def drained(_owner: PairOwner) -> None:
        return

    return [(PairOwner, "drained", drained)]


def _bit_cleared_at_ack() -> list[Patch]:
    sent, acked = Copier._sent, Copier.piece_acked
    waiting: dict[Copier, deque[tuple[int, int]]] = {}

    def on_sent(copier: Copier, first: int, count: int, payload_bytes: int) -> None:
        waiting.setdefault(copier, deque()).append((first, count))
        sent(copier, first, count, payload_bytes)

    def on_acked(copier: Copier, size_bytes: int, weight_bytes: int) -> None:
        copier._bitmap.clear(*waiting[copier].popleft())
        acked(copier, size_bytes, weight_bytes)

    return [(Copier, "_sent", on_sent), (Copier, "piece_acked", on_acked)]


def _peer_not_flushed() -> list[Patch]:
    def flush_batch(copier: Copier) -> None:
        copier._covered, copier._batch = copier._batch, []
        copier._batch_bytes = 0
        copier._flushes_left = 1
        copier._volume.flush_store(lambda _error: copier.flushed())

    return [(Copier, "_flush_batch", flush_batch)]


def _position_in_memory_only() -> list[Patch]:
    real = Copier.__init__

    def init(copier: Copier, *arguments: Any) -> None:
        real(copier, *arguments)
        bitmap = copier._bitmap
        todo = DirtyBitmap(bitmap.blocks)
        todo.union(bitmap)
        bitmap.clear_all()
        copier._bitmap = todo

    return [(Copier, "__init__", init)]


def _partly_covered_block_cleared() -> list[Patch]:
    real = Mirrored.acked

    def acked(ticket: Mirrored) -> None:
        side, op = ticket.side, ticket.op
        assert isinstance(side, PairSide)
        first, count = block_range(op.offset_bytes, op.length_bytes)
        whole = op.length_bytes % BLOCK_BYTES == 0 and op.offset_bytes % BLOCK_BYTES == 0
        if side.copier is not None and not whole:
            # Both sides hold the write, and the rest of the block is forgotten.
            side.bitmap.clear(first, count)
        real(ticket)

    return [(Mirrored, "acked", acked)]


def _third_not_kept() -> list[Patch]:
    async def guard(_pairs: Pairs, _side: PairSide) -> None:
        return

    return [(Pairs, "guard", guard)]


def _half_copied_volume_shown() -> list[Patch]:
    real = Volume.update_access

    def update_access(volume: Volume) -> None:
        consistent, volume.state.consistent = volume.state.consistent, True
        real(volume)
        volume.state.consistent = consistent

    return [(Volume, "update_access", update_access)]


def _half_copied_source_followed() -> list[Patch]:
    real = Leader.copied

    async def copied(leader: Leader) -> None:
        state = leader._side.volume.state
        consistent, state.consistent = state.consistent, True
        try:
            await real(leader)
        finally:
            state.consistent = consistent

    return [(Leader, "copied", copied)]


def _copied_back_under_initiators() -> list[Patch]:
    def check(_leader: Leader, *, force: bool) -> None:
        del force

    return [(Leader, "check_exclusive", check)]


def _hosts_not_told() -> list[Patch]:
    def data_replaced(_pairs: Pairs, _side: PairSide) -> None:
        return

    return [(Pairs, "data_replaced", data_replaced)]


MUTANTS = [
    Mutant("bits cleared when sent", "L2", _bits_cleared_when_sent),
    Mutant("resync read races a write", "L3", _read_races_write),
    Mutant("other side's bitmap ignored", "L3", _other_bitmap_ignored),
    Mutant("copied hole skipped", "L3", _every_discard_is_a_hole),
    Mutant("copied back under its hosts", "L12", _copied_back_under_hosts),
    Mutant("copy begins before writes end", "L6", _door_closed_too_late),
    Mutant("bit cleared at ack", "L2", _bit_cleared_at_ack),
    Mutant("bit cleared without peer flush", "L2", _peer_not_flushed),
    Mutant("position kept in memory only", "L1", _position_in_memory_only),
    Mutant("partly covered block cleared", "L2", _partly_covered_block_cleared),
    Mutant("third not kept", "L7", _third_not_kept),
    Mutant("half copied volume shown", "L7", _half_copied_volume_shown),
    Mutant("half copied source followed", "L7", _half_copied_source_followed),
    Mutant("copied back under initiators", "L12", _copied_back_under_initiators),
    Mutant("no unit attention", "L12", _hosts_not_told),
]
