"""Bugs in quick splits: what is kept for the S-VOL, in which order, and across a crash."""

from __future__ import annotations

import asyncio
from typing import Any

from controller.link.channel import Channel
from controller.pair.behind import CopyBehind
from controller.pair.quick import QuickSplit
from controller.volume.owed import OwedBlocks, Runs
from controller.volume.store import Disk, StoreDone
from tests.sim.mutants.plant import Mutant, Patch


def _held_block_overwritten() -> list[Patch]:
    def passes(behind: CopyBehind, _start_bytes: int, _end_bytes: int) -> bool:
        return behind.owed is not None

    return [(CopyBehind, "passes", passes)]


def _kept_without_a_flush() -> list[Patch]:
    real = CopyBehind._discharge

    def discharge(behind: CopyBehind) -> None:
        channel: Any = behind._channel
        if channel is None:
            return
        flush = channel.flush
        channel.flush = lambda ticket, **_rest: ticket.acked()
        try:
            real(behind)
        finally:
            channel.flush = flush

    return [(CopyBehind, "_discharge", discharge)]


def _let_go_before_it_is_written_down() -> list[Patch]:
    def discharge(owed: OwedBlocks, kept: Runs, done: StoreDone) -> None:
        for first, count in kept:
            owed.held.clear(first, count)
        done(None)

    return [(OwedBlocks, "discharge", discharge)]


def _opened_before_it_is_on_disk() -> list[Patch]:
    def passes(behind: CopyBehind, start_bytes: int, end_bytes: int) -> bool:
        return behind.owed is None or not behind._held_in(start_bytes, end_bytes)

    return [(CopyBehind, "passes", passes)]


def _stands_still_behind_hurry() -> list[Patch]:
    real = CopyBehind._discharge

    def discharge(behind: CopyBehind) -> None:
        free = behind.active and not (behind._discharging or behind._reading or behind._wanted)
        if free and behind._hurry and not behind._batch and len(behind._todo):
            # What a write hurried for was flushed meanwhile, and nobody goes on with the rest.
            behind._hurry = False
        else:
            real(behind)

    return [(CopyBehind, "_discharge", discharge)]


def _split_without_the_s_vols_flush() -> list[Patch]:
    real = QuickSplit._prepared

    async def prepared(quick: QuickSplit, _channel: Channel) -> OwedBlocks:
        unflushed: Any = _Unflushed()
        return await real(quick, unflushed)

    return [(QuickSplit, "_prepared", prepared)]


class _Unflushed:
    """A channel that says yes."""

    def flush(self, ticket: Any, *, copy: bool) -> None:
        del copy
        ticket.acked()


def _split_without_the_p_vols_flush() -> list[Patch]:
    real = QuickSplit._prepared

    async def prepared(quick: QuickSplit, channel: Channel) -> OwedBlocks:
        volume: Any = quick._side.volume
        volume.flush_store = lambda done: done(None)
        # The split asks in the next turn of the loop; whoever comes behind it is served.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, vars(volume).pop, "flush_store")
        return await real(quick, channel)

    return [(QuickSplit, "_prepared", prepared)]


def _owed_blocks_forgotten() -> list[Patch]:
    real = OwedBlocks.load

    async def load(disk: Disk, pair_id: str, blocks: int) -> OwedBlocks | None:
        owed = await real(disk, pair_id, blocks)
        if owed is not None:
            owed.held.clear_all()
        return owed

    return [(OwedBlocks, "load", load)]


LET_GO = Mutant("let go before it is written down", "L11", _let_go_before_it_is_written_down)
"""Seldom seen by a seed: power has to go between a write and the next save. The crash points do."""

MUTANTS = [
    Mutant("held block overwritten", "L11", _held_block_overwritten),
    Mutant("kept without a flush", "L2", _kept_without_a_flush),
    Mutant("copy behind stands still", "L3", _stands_still_behind_hurry),
    Mutant("quick split without the S-VOL's flush", "L11", _split_without_the_s_vols_flush),
    Mutant("quick split without the P-VOL's flush", "L11", _split_without_the_p_vols_flush),
    Mutant("owed blocks forgotten at a restart", "L11", _owed_blocks_forgotten),
    Mutant("writes go on before a quick split is on disk", "L11", _opened_before_it_is_on_disk),
]
