"""Bugs in the exchange of roles, for the crash points."""

from __future__ import annotations

from controller.pair.owner import PairOwner
from controller.volume.store import finished
from tests.sim.mutants.plant import Mutant, Patch


def _offered_before_writes_have_ended() -> list[Patch]:
    async def drained(_owner: PairOwner) -> None:
        return

    return [(PairOwner, "drained", drained)]


def _told_before_it_is_on_disk() -> list[Patch]:
    async def save(owner: PairOwner) -> None:
        await finished(owner.side.bitmap_file.save)

    return [(PairOwner, "save", save)]


OFFERED = Mutant("role offered before writes have ended", "L8", _offered_before_writes_have_ended)
TOLD = Mutant("role told before it is on disk", "L3", _told_before_it_is_on_disk)
