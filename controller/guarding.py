"""The guard: before a volume becomes half of two points in time, what mirrors it is split (law L7).

Owns that split, and that nothing is left out of it. Changes nothing else; refuses with
RejectedError where a split fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from controller.api import messages as m
from controller.pair.copier import Copier
from controller.pair.owner import PairOwner
from controller.pair.side import PairSide

log = logging.getLogger(__name__)


async def guard(owners: Callable[[], list[PairOwner]], side: PairSide) -> None:
    """Split every pair in PAIR whose P-VOL is the volume of `side`.

    Returns in the step in which none is left: while one is waited for, the copy of another may end.
    """
    waited: list[Copier] = []
    while await _one(owners(), side, waited):
        pass


async def _one(owners: list[PairOwner], side: PairSide, waited: list[Copier]) -> bool:
    """Wait for one of them; False when there was none to wait for."""
    for owner in owners:
        if owner.side is side or owner.record.role is not m.Role.P_VOL:
            continue
        copier = owner.side.copier
        if copier is not None and copier.ended and copier not in waited:
            # Its S-VOL may have been told already that it is in sync.
            waited.append(copier)
            await owner.caught_up()
            return True
        if owner.record.state is m.PairState.PAIR:
            log.info("pair %s: kept as the consistent copy", owner.record.name)
            split = owner.begin_split("kept while its source is re-synchronised")
            owner.record.guarded = True
            owner.record.reason = "kept as the consistent copy; resumes with its source"
            await split
            return True
    return False
