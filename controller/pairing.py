"""How a pair comes to be: what two volumes must fulfil, and the records of both sides.

Owns the rules for new pairs. Must not run a pair: a side that is made belongs to
`controller.pairs`. Refuses with RejectedError, with everything as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.catalogue import Catalogue
from controller.pair.owner import PairOwner
from controller.pair.record import PairRecord
from controller.pairs import Pairs
from controller.shelved import Shelved, taken
from controller.volumes import Volumes

log = logging.getLogger(__name__)


class Pairing:
    """Makes pairs of a controller's volumes."""

    def __init__(
        self,
        pairs: Pairs,
        volumes: Volumes,
        catalogue: Catalogue,
        new_id: Callable[[], str],
    ) -> None:
        self._pairs = pairs
        self._volumes = volumes
        self._catalogue = catalogue
        self._new_id = new_id

    def check_new(self, name: str, volume: str, role: m.Role) -> Shelved:
        """Whether a volume can take a part in a new pair; RejectedError says why not."""
        if self._pairs.find(name) is not None:
            raise RejectedError(
                Code.EXISTS, f"a pair '{name}' exists", "choose another name, or delete it first"
            )
        if not self._catalogue.has_room():
            raise RejectedError(Code.NO_SPACE, "the catalogue is full", "delete volumes or pairs")
        shelved = self._volumes.get(volume)
        if shelved.view_of is not None:
            raise RejectedError(Code.BAD_REQUEST, f"'{volume}' is a view", "pair a volume")
        shelved.check_not_busy()
        if not shelved.record.healthy:
            raise RejectedError(
                Code.NOT_CONSISTENT, f"volume '{volume}' has failed", "pair another volume"
            )
        if role is m.Role.S_VOL:
            for owner in self._pairs.of_volume(volume):
                if owner.record.role is m.Role.S_VOL:
                    name = owner.record.name
                    raise taken(Code.IN_USE, f"'{volume}' is the S-VOL of pair '{name}'", name)
            if shelved.volume.views:
                raise RejectedError(
                    Code.IN_USE,
                    f"a view of '{volume}' is open",
                    "it closes with the job that looks into it: trilun job list",
                )
            self._volumes.check_no_sessions(shelved)
        return shelved

    async def create_local(self, asked: m.PairCreate) -> PairOwner:
        """Bind two volumes of this controller; the copy starts at once."""
        self._check_no_circle(asked)
        p_shelved = self.check_new(asked.name, asked.p_volume, m.Role.P_VOL)
        s_shelved = self.check_new(asked.name, asked.s_volume, m.Role.S_VOL)
        check_sizes(asked, p_shelved.record.size_bytes, s_shelved.record.size_bytes)
        if not p_shelved.record.consistent:
            raise RejectedError(
                Code.NOT_CONSISTENT,
                f"'{asked.p_volume}' is not one point in time",
                "wait until its own pair is in sync",
            )
        record = self.new_record(asked, m.Role.P_VOL, p_shelved.record.generation)
        other = record.model_copy(
            update={
                "role": m.Role.S_VOL,
                "volume": record.other_volume,
                "other_volume": record.volume,
                "history": [],
            }
        )
        was_consistent = s_shelved.record.consistent
        with p_shelved.claimed(), s_shelved.claimed():
            half = await self._pairs.add(other)
            try:
                owner = await self._pairs.add(record)
            except RejectedError:
                # Nothing was copied: the S-VOL is what it was.
                s_shelved.record.consistent = was_consistent
                if half in self._pairs.owners():
                    await self._pairs.forget(half.side)
                raise
        if half not in self._pairs.owners():
            # `pair delete --force` found the half that was there already.
            await self._pairs.forget(owner.side)
            raise RejectedError(
                Code.WRONG_STATE,
                f"pair '{asked.name}' was deleted while it was being made",
                "create it again",
            )
        self._pairs.connect_local(record.name)
        await owner.caught_up()
        return owner

    def _check_no_circle(self, asked: m.PairCreate) -> None:
        """A volume can't be a copy of itself, however many pairs lie between."""
        source: str | None = asked.p_volume
        while source is not None:
            if source == asked.s_volume:
                raise RejectedError(
                    Code.BAD_REQUEST,
                    f"'{asked.p_volume}' is '{asked.s_volume}', or a copy of it",
                    "choose another S-VOL",
                )
            source = next(
                (
                    owner.record.other_volume
                    for owner in self._pairs.of_volume(source)
                    if owner.record.role is m.Role.S_VOL and owner.record.kind is m.PairKind.LOCAL
                ),
                None,
            )

    async def accept(self, record: PairRecord, p_bytes: int) -> PairOwner:
        """Make the S-VOL's side of a remote pair that its P-VOL's controller has just made."""
        if record.role is not m.Role.S_VOL or record.kind is not m.PairKind.REMOTE:
            raise RejectedError(
                Code.BAD_REQUEST,
                "this is not an S-VOL's side of a remote pair",
                "run the same release on both controllers",
            )
        stale = self._pairs.find(record.name)
        if (
            stale is not None
            and stale.record.role is m.Role.S_VOL
            and (stale.record.peer, stale.record.volume) == (record.peer, record.volume)
        ):
            # Rule 1 of the table: the P-VOL's side decides. It has none, so ours is what an
            # interrupted create, or a delete with --force, has left behind.
            log.warning("pair %s: made anew by '%s'", record.name, record.peer)
            stale.side.part()
            await self._pairs.forget(stale.side)
        for owner in self._pairs.of_volume(record.volume):
            back = (owner.record.peer, owner.record.other_volume)
            if back == (record.peer, record.other_volume):
                raise RejectedError(
                    Code.BAD_REQUEST,
                    f"'{record.other_volume}' is a copy of '{record.volume}' already",
                    "choose another S-VOL",
                )
        shelved = self.check_new(record.name, record.volume, m.Role.S_VOL)
        asked = m.PairCreate(
            name=record.name,
            kind=m.PairKind.REMOTE,
            p_volume=record.other_volume,
            s_volume=record.volume,
        )
        check_sizes(asked, p_bytes, shelved.record.size_bytes)
        with shelved.claimed():
            return await self._pairs.add(record)

    def new_record(self, asked: m.PairCreate, role: m.Role, generation: str) -> PairRecord:
        """The record of a pair that is about to copy for the first time."""
        return PairRecord(
            id=self._new_id(),
            name=asked.name,
            kind=asked.kind,
            role=role,
            volume=asked.p_volume,
            other_volume=asked.s_volume,
            peer=asked.peer,
            mode=asked.mode,
            fence=asked.fence,
            rate_limit_bytes_per_s=asked.rate_limit_bytes_per_s,
            state=m.PairState.PSUE,
            goal="mirror",
            reason="the initial copy is about to begin",
            current=generation,
            baseline=generation,
        )


def check_sizes(asked: m.PairCreate, p_bytes: int, s_bytes: int) -> None:
    """Both volumes of a pair have the same size."""
    if p_bytes != s_bytes:
        smaller = asked.p_volume if p_bytes < s_bytes else asked.s_volume
        raise RejectedError(
            Code.BAD_REQUEST,
            f"'{asked.p_volume}' has {p_bytes} bytes, '{asked.s_volume}' {s_bytes}",
            f"let the smaller one grow: trilun volume grow NODE/{smaller} {max(p_bytes, s_bytes)}",
        )
