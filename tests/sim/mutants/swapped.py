"""Bugs in the exchange of roles; those that need one moment of it are for the crash points."""

from __future__ import annotations

from controller.pair.owner import PairOwner
from controller.pair.roles import Roles
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


def _opened_when_the_link_is_lost() -> list[Patch]:
    real = PairOwner.lost

    def lost(owner: PairOwner, reason: str) -> None:
        real(owner, reason)
        if owner.record.closed == "swapping":
            owner.record.closed = ""
            owner.side.volume.update_access()

    return [(PairOwner, "lost", lost)]


def _kept_under_the_number_that_was_offered() -> list[Patch]:
    real = Roles.keep

    async def keep(roles: Roles, *, force: bool) -> None:
        # The exchange adds two: one that the other side may have, and one beyond it.
        roles._record.swaps -= 1
        await real(roles, force=force)

    return [(Roles, "keep", keep)]


OFFERED = Mutant("role offered before writes have ended", "L8", _offered_before_writes_have_ended)
TOLD = Mutant("role told before it is on disk", "L3", _told_before_it_is_on_disk)
OPENED = Mutant("an offered role taken back by itself", "L8", _opened_when_the_link_is_lost)
NUMBER = Mutant("role kept under the number offered", "L3", _kept_under_the_number_that_was_offered)

MUTANTS = [OFFERED]
