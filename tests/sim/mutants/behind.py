"""Bugs in quick splits: what is kept for the S-VOL, in which order, and across a crash."""

from __future__ import annotations

from typing import Any

from controller.pair.behind import CopyBehind
from controller.volume.owed import OwedBlocks, Runs
from controller.volume.store import StoreDone
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


LET_GO = Mutant("let go before it is written down", "L11", _let_go_before_it_is_written_down)
"""Seldom seen by a seed: power has to go between a write and the next save. The crash points do."""

MUTANTS = [
    Mutant("held block overwritten", "L11", _held_block_overwritten),
    Mutant("kept without a flush", "L2", _kept_without_a_flush),
    Mutant("writes go on before a quick split is on disk", "L11", _opened_before_it_is_on_disk),
]
