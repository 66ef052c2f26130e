"""Bugs in backups of several data sets: one instant for all, kept together or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.keeping import Keeping
from controller.pair import messages as msg
from controller.pair.inbox import Gate
from controller.pair.owner import PairOwner
from controller.pair.side import PairSide
from controller.pair.table import Answer
from controller.pairs import Pairs
from tests.sim.mutants.plant import Mutant, Patch

LATE_S = 0.5


def _kept_whatever_is_held() -> list[Patch]:
    real = Keeping._check_held

    def check_held(keeping: Keeping, name: str, instant: str) -> PairOwner:
        owner = keeping._pairs.local(name)
        return real(keeping, name, instant) if owner is None else owner

    return [(Keeping, "_check_held", check_held)]


def _marked_one_after_the_other() -> list[Patch]:
    real = PairOwner.begin_mark

    def begin_mark(owner: PairOwner, mark: msg.Mark) -> asyncio.Future[Answer]:
        if owner.record.name < "remote2":
            return real(owner, mark)

        loop = asyncio.get_running_loop()
        begun: asyncio.Future[Answer] = loop.create_future()

        def over(done: asyncio.Future[Answer]) -> None:
            error = None if done.cancelled() else done.exception()
            if done.cancelled():
                begun.cancel()
            elif error is not None:
                begun.set_exception(error)
            else:
                begun.set_result(done.result())

        loop.call_later(LATE_S, lambda: real(owner, mark).add_done_callback(over))
        return begun

    return [(PairOwner, "begin_mark", begin_mark)]


def _marked_without_a_guard() -> list[Patch]:
    real = Pairs.mark_local

    def mark_local(
        pairs: Pairs, side: PairSide, mark: msg.Mark, reply: Callable[[msg.Marked], None]
    ) -> None:
        real(pairs, side, mark, reply)
        owner = pairs.local(mark.local_pair)
        if owner is not None:
            owner.record.guarded = False

    return [(Pairs, "mark_local", mark_local)]


def _marked_in_vain_and_left() -> list[Patch]:
    def unmark_local(_pairs: Pairs, _side: PairSide, _unmark: msg.Unmark) -> None:
        return

    return [(Pairs, "unmark_local", unmark_local)]


def _brought_back_before_all_agreed() -> list[Patch]:
    async def passed(gate: Gate) -> None:
        gate.check()

    return [(Gate, "passed", passed)]


TOGETHER = Mutant("group brought back before all agreed", "L11", _brought_back_before_all_agreed)

MUTANTS = [
    TOGETHER,
    Mutant("kept whatever is held", "L11", _kept_whatever_is_held),
    Mutant("a group marked one after the other", "L11", _marked_one_after_the_other),
    Mutant("marked without a guard", "L11", _marked_without_a_guard),
    Mutant("marked in vain and left", "L3", _marked_in_vain_and_left),
]
