"""A backup of several data sets comes about as one, or not at all.

Owns the step that makes the local pairs of one instant backups, and the one that gives them up:
each is a single commit of the catalogue, so that no crash leaves a part of a backup that looks
like a whole one (`controller.marks` has split and guarded them). Must not split anything.
Refuses with RejectedError, with everything as it was.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.catalogue import Catalogue
from controller.marks import UNKEPT
from controller.pair.owner import PairOwner
from controller.pairs import Pairs
from controller.volume.store import StoreError


class Keeping:
    """What becomes of the pairs that were split for one backup of several data sets."""

    def __init__(self, node: str, pairs: Pairs, catalogue: Catalogue) -> None:
        self._node = node
        self._pairs = pairs
        self._catalogue = catalogue

    async def settle(self, asked: m.BackupSettle) -> Verdict:
        """Keep the local pairs of an instant as one backup, or let all of them follow again."""
        return await (self._keep(asked) if asked.keep else self._drop(asked))

    async def _keep(self, asked: m.BackupSettle) -> Verdict:
        owners = [self._check_held(name, asked.instant) for name in asked.local_pairs]
        records = [owner.record for owner in owners]
        # An operator may have split some of them by hand meanwhile: they have no label yet.
        if all(not record.guarded and record.label == asked.label for record in records):
            return Verdict.NO_OP
        before = [(record.guarded, record.label, record.reason) for record in records]
        for record in records:
            record.guarded, record.label, record.reason = False, asked.label, ""
        try:
            await self._catalogue.commit()
        except StoreError:
            for record, was in zip(records, before, strict=True):
                record.guarded, record.label, record.reason = was
            raise
        finally:
            self._show(owners)
        return Verdict.ACCEPTED

    async def _drop(self, asked: m.BackupSettle) -> Verdict:
        found = [self._pairs.local(name) for name in asked.local_pairs]
        owners = [o for o in found if o is not None and _holds(o, asked.instant)]
        for owner in owners:
            owner.record.guarded, owner.record.label = True, ""
            owner.record.reason = UNKEPT
        await self._catalogue.commit()
        self._show(owners)
        for owner in owners:
            if owner.side.volume.state.consistent:
                owner.resume_guarded()
        return Verdict.ACCEPTED if owners else Verdict.NO_OP

    def _check_held(self, name: str, instant: str) -> PairOwner:
        owner = self._pairs.local(name)
        if owner is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"there is no local pair '{name}' on '{self._node}'",
                "trilun pair list shows what there is",
            )
        if not _holds(owner, instant):
            raise RejectedError(
                Code.WRONG_STATE,
                f"'{name}' does not hold that instant any more: it is in {owner.record.state}",
                "take the backup again",
            )
        return owner

    def states(self, local_pairs: list[str]) -> dict[str, m.PairState]:
        """How these pairs stand; SMPL where one is gone."""
        owners = {name: self._pairs.local(name) for name in local_pairs}
        gone = m.PairState.SMPL
        return {name: gone if o is None else o.record.state for name, o in owners.items()}

    def _show(self, owners: list[PairOwner]) -> None:
        for owner in owners:
            self._pairs.changed(owner.side)


def _holds(owner: PairOwner, instant: str) -> bool:
    return owner.record.state is m.PairState.PSUS and owner.record.instant == instant
