"""Consistency groups: several pairs of this controller that are split at one instant.

Owns their records, and the steps that concern all pairs of one. Must not move data. Refuses with
RejectedError, all or nothing: where one pair's other side does not confirm a split or a mark in
time, all of them mirror again.

The pairs of a group share one stream. Their markers go into it in one step of the loop, so no write
of a host comes between two of them, and the S-VOLs part at the same instant (law L11), also where
the link breaks between two markers: nothing comes behind the last one that arrived.
"""

from __future__ import annotations

import asyncio
import logging

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.groups import LocalMark
from controller.catalogue import Catalogue, GroupRecord
from controller.pair import messages as msg
from controller.pair.owner import PairOwner
from controller.pair.table import Answer
from controller.pairs import Pairs

log = logging.getLogger(__name__)

MAX_GROUPS = 256


class Groups:
    """All groups of this controller."""

    def __init__(self, node: str, pairs: Pairs, catalogue: Catalogue) -> None:
        self._node = node
        self._pairs = pairs
        self._catalogue = catalogue

    # ------------------------------------------------------------ look-ups

    def all(self) -> list[GroupRecord]:
        """Every group, by name."""
        return sorted(self._catalogue.contents.groups, key=lambda group: group.name)

    def find(self, name: str) -> GroupRecord | None:
        """One group."""
        return next((g for g in self._catalogue.contents.groups if g.name == name), None)

    def get(self, name: str) -> GroupRecord:
        """One group; RejectedError when there is none of that name."""
        found = self.find(name)
        if found is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"there is no group '{name}' on '{self._node}'",
                "trilun group list shows what there is",
            )
        return found

    def info(self, group: GroupRecord) -> m.GroupInfo:
        """A group as operators see it."""
        owners = {name: self._pairs.find(name) for name in group.pairs}
        return m.GroupInfo(
            name=group.name,
            node=self._node,
            pairs=group.pairs,
            states={
                name: m.PairState.SMPL if owner is None else owner.record.state
                for name, owner in owners.items()
            },
            dirty_bytes=sum(o.side.bitmap.dirty_bytes for o in owners.values() if o is not None),
        )

    def members(self, names: list[str]) -> list[PairOwner]:
        """The pairs' P-VOL's sides; RejectedError when not all are here, and to one peer."""
        owners = [self._pairs.get(name) for name in names]
        for owner in owners:
            if owner.record.role is not m.Role.P_VOL:
                raise RejectedError(
                    Code.BAD_REQUEST,
                    f"the P-VOL of '{owner.record.name}' is not on '{self._node}'",
                    f"ask '{owner.record.peer}'",
                )
        peers = {owner.record.peer for owner in owners}
        if len(peers) > 1:
            named = ", ".join(sorted(peer or "none (local)" for peer in peers))
            raise RejectedError(
                Code.BAD_REQUEST,
                f"the pairs of a group share one link, these have several peers: {named}",
                "make a group for each peer",
            )
        return owners

    # ------------------------------------------------------------ commands

    async def create(self, asked: m.GroupCreate) -> bool:
        """Name a group; False when it is there already, with the same pairs."""
        names = sorted(set(asked.pairs))
        known = self.find(asked.name)
        if known is not None:
            if known.pairs == names:
                return False
            raise RejectedError(
                Code.EXISTS,
                f"group '{asked.name}' exists with other pairs: {', '.join(known.pairs)}",
                "choose another name, or delete it first",
            )
        self.members(names)
        groups = self._catalogue.contents.groups
        if len(groups) >= MAX_GROUPS or not self._catalogue.has_room():
            raise RejectedError(Code.NO_SPACE, "the catalogue is full", "delete groups or pairs")
        groups.append(GroupRecord(name=asked.name, pairs=names))
        await self._catalogue.commit()
        return True

    async def delete(self, group: GroupRecord) -> None:
        """Forget a group; its pairs stay."""
        self._catalogue.contents.groups.remove(group)
        await self._catalogue.commit()

    async def split(self, asked: m.GroupSplit) -> Verdict:
        """Split all pairs at one instant; RejectedError when that can't be, with none split."""
        owners = self.members(self.get(asked.name).pairs)
        if all(owner.record.state is m.PairState.PSUS for owner in owners):
            return Verdict.NO_OP
        self._check_mirroring(asked.name, owners)
        # From the first of these calls to the last, nothing else runs.
        splits = [
            owner.begin_split(asked.label, asked.at, writable=asked.writable) for owner in owners
        ]
        _, late = await asyncio.wait(splits, timeout=asked.deadline_s)
        failed = [owner for owner, split in zip(owners, splits, strict=True) if _failed(split)]
        if not failed:
            return Verdict.ACCEPTED
        why = f"'{failed[0].record.name}' {_why(splits[owners.index(failed[0])])}"
        log.warning("group %s: not split: %s", asked.name, why)
        for split in late:
            # Nobody waits for it any more; what it ends with is no news.
            split.add_done_callback(_seen)
        for owner in owners:
            owner.take_back_split(f"the split of group '{asked.name}' was taken back: {why}")
        raise RejectedError(
            Code.TIMEOUT if late else Code.NO_PEER,
            f"group '{asked.name}' is not split: {why}",
            "its pairs mirror again by themselves; look at trilun pair list, then split again",
        )

    async def mark(self, asked: m.GroupMark) -> None:
        """Put a backup's mark into the stream for all pairs at one instant.

        RejectedError when not all of it was acted on by the deadline: what was split at the other
        end follows again then, told so at its place behind the mark.
        """
        group = self.get(asked.name)
        marks = {each.remote_pair: each for each in asked.marks}
        others = set(marks) ^ set(group.pairs)
        if others or len(marks) < len(asked.marks):
            named = ", ".join(sorted(others)) or "one is named twice"
            raise RejectedError(
                Code.BAD_REQUEST,
                f"the marks are not those of the pairs of group '{asked.name}': {named}",
                f"trilun group show {asked.name}",
            )
        owners = self.members(group.pairs)
        if owners[0].record.peer is None:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"the pairs of group '{asked.name}' are local, a backup is taken of remote ones",
                "make a group of the remote pairs",
            )
        self._check_mirroring(asked.name, owners)
        # From the first of these calls to the last, nothing else runs.
        begun = [owner.begin_mark(_mark(marks[owner.record.name], asked)) for owner in owners]
        await asyncio.wait(begun, timeout=asked.deadline_s)
        failed = [owner for owner, mark in zip(owners, begun, strict=True) if _failed(mark)]
        if not failed:
            return
        why = f"'{failed[0].record.name}' {_why(begun[owners.index(failed[0])])}"
        log.warning("group %s: no backup: %s", asked.name, why)
        for owner, mark in zip(owners, begun, strict=True):
            mark.add_done_callback(_seen)
            if asked.split_remote:
                # What was split behind it follows again when it is in sync.
                owner.take_back_split(f"the backup of group '{asked.name}' was given up: {why}")
            else:
                local_pair = marks[owner.record.name].local_pair
                owner.talk.send(msg.Unmark(local_pair=local_pair, instant=asked.instant))
        raise RejectedError(
            Code.NO_PEER,
            f"there is no backup of group '{asked.name}': {why}",
            "what was split follows again by itself; look at trilun pair list, then try again",
        )

    def _check_mirroring(self, name: str, owners: list[PairOwner]) -> None:
        for owner in owners:
            record = owner.record
            away = owner.side.channel is None or not owner.side.mirroring or bool(record.closed)
            if record.state is not m.PairState.PAIR or away:
                raise RejectedError(
                    Code.WRONG_STATE,
                    f"group '{name}' can't be split: pair '{record.name}' is in {record.state}",
                    f"bring it in sync: trilun group resync {name}, then trilun pair wait",
                )


def _mark(local: LocalMark, asked: m.GroupMark) -> msg.Mark:
    return msg.Mark(
        local_pair=local.local_pair,
        label=asked.label,
        at=asked.at,
        number=local.number,
        split_remote=asked.split_remote,
        instant=asked.instant,
    )


def _failed(split: asyncio.Future[Answer]) -> bool:
    return not split.done() or split.cancelled() or split.exception() is not None


def _why(split: asyncio.Future[Answer]) -> str:
    if not split.done():
        return "did not confirm in time"
    error = None if split.cancelled() else split.exception()
    return f"did not confirm: {error or 'it stops'}"


def _seen(split: asyncio.Future[Answer]) -> None:
    if not split.cancelled():
        split.exception()
