"""Backups of several data sets at one instant: taken by an operator, judged as one (law L11).

Owns the group of a seed's remote pairs, the instants that were marked, and what became of them.
All local pairs of an instant hold one instant of the primaries, in the order in which hosts saw
their writes end across volumes; they become backups together or not at all; and what isn't kept
follows again by itself. Must not look into the controllers beyond what pairs' records say.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.groups import LocalMark
from controller.pair.record import PairRecord
from tests.sim.operator import Answered, Operator, PairPlan

GROUP = "shop"
PRIMARY, SECONDARY = "a", "b"
IN_VAIN_WITHIN_S = 60


@dataclass(frozen=True)
class Member:
    """One data set."""

    remote: PairPlan
    local: PairPlan


@dataclass(frozen=True)
class Held:
    """What the volumes that were split at an instant held then."""

    images: tuple[tuple[PairPlan, str, bytes], ...]
    """The remote pair whose P-VOL it is an instant of, the volume that holds it, and its image."""


def members_of(plans: list[PairPlan]) -> list[Member]:
    """Data sets of one primary; a group needs two."""
    remotes = [plan for plan in plans if plan.p_machine == PRIMARY]
    return [Member(r, each) for r in remotes for each in plans if each.p_volume == r.s_volume]


class GroupBackups:
    """An operator of a group, as an agent would be one, and its judge."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._oracle = operator.oracle
        self._members = members_of(operator.plans)
        self._instants = 0
        self._asked: set[str] = set()
        """Instants that somebody has asked to keep."""
        self._forgotten: list[str] = []
        """Instants that were marked, and nobody has said what is to become of them."""

    @property
    def possible(self) -> bool:
        """Whether there is more than one data set."""
        return len(self._members) > 1

    # ------------------------------------------------------------ the operator

    async def create(self) -> None:
        """Name the group."""
        names = [member.remote.name for member in self._members]
        await self._give(PRIMARY, "group.create", m.GroupCreate(name=GROUP, pairs=names))

    async def _give(self, machine: str, verb: str, params: m.Params) -> Answered:
        return await self._operator.give(self._oracle.machines[machine], verb, params)

    async def backup(self) -> None:
        """Bring the pairs in sync, mostly; mark them at one instant; keep that, mostly."""
        rng = self._operator.rng
        if rng.random() < 0.8:
            plans = [plan for each in self._members for plan in (each.remote, each.local)]
            await self._operator.bring_in_sync(plans)
        held = await self.mark(
            instant := f"instant-{self._instants + 1}",
            split_remote=rng.random() < 0.3,
            deadline_s=rng.choice((0.2, 3.0, 30.0)),
        )
        if held is None:
            return
        if rng.random() < 0.1:
            # The agent died: nobody says what is to become of it.
            return
        await asyncio.sleep(rng.choice((0.0, 0.3, 3.0)) * rng.random())
        if rng.random() < 0.1:
            # Somebody else wants one of the slots for something else.
            await self._operator.resync(rng.choice(self._members).local, reverse=False)
        kept = rng.random() < 0.8 and await self.keep(instant, held)
        if not kept or rng.random() < 0.1:
            await self.drop(instant)

    async def mark(self, instant: str, *, split_remote: bool, deadline_s: float) -> Held | None:
        """Split all local pairs at one instant; what they hold, if that was confirmed."""
        oracle = self._oracle
        self._instants += 1
        params = m.GroupMark(
            name=GROUP,
            marks=[
                LocalMark(remote_pair=each.remote.name, local_pair=each.local.name)
                for each in self._members
            ],
            instant=instant,
            split_remote=split_remote,
            deadline_s=deadline_s,
        )
        began, rebased = oracle.tick(), self.rebased()
        before = self._operator.commands
        answer = await self._give(PRIMARY, "group.mark", params)
        alone = self._operator.commands == before + 1 and not self._operator.under_way
        if answer.refused is not None and answer.refused.code is Code.NOT_FOUND:
            await self.create()
        if not answer.done:
            return None
        self._forgotten.append(instant)
        if alone:
            self._judge_guarded(instant)
        held = self._held(instant, split_remote=split_remote)
        if rebased == self.rebased():
            self.judge_instant(instant, held, began)
        return held

    async def keep(self, instant: str, held: Held) -> bool:
        """Make them one backup; True when the secondary says that they are."""
        self._asked.add(instant)
        before = self._operator.commands
        answer = await self._settle(instant, keep=True)
        alone = self._operator.commands == before + 1 and not self._operator.under_way
        if answer.outcome is None:
            return False
        self._forgotten.remove(instant)
        if alone:
            self._judge_kept(instant, held)
        return True

    async def drop(self, instant: str) -> None:
        """It is to be no backup."""
        answer = await self._settle(instant, keep=False)
        if answer.outcome is not None:
            self._asked.discard(instant)
            if instant in self._forgotten:
                self._forgotten.remove(instant)

    async def _settle(self, instant: str, *, keep: bool) -> Answered:
        names = [each.local.name for each in self._members]
        params = m.BackupSettle(instant=instant, local_pairs=names, label=instant, keep=keep)
        return await self._give(SECONDARY, "backup.settle", params)

    async def in_vain(self) -> None:
        """In quiet times: where one pair refuses a mark, the others follow again unasked."""
        refuses, *others = self._members
        await self._operator.split(refuses.local, writable=False)
        self._instants += 1
        instant = f"instant-{self._instants}"
        marks = [
            LocalMark(remote_pair=each.remote.name, local_pair=each.local.name)
            for each in self._members
        ]
        params = m.GroupMark(name=GROUP, marks=marks, instant=instant, split_remote=False)
        answer = await self._give(PRIMARY, "group.mark", params)
        if answer.done:
            self._oracle.broken("L11", f"'{instant}' was marked, with a pair that was split before")
        for _ in range(IN_VAIN_WITHIN_S):
            if all(self._operator.in_pair(each.local) for each in others):
                return
            await asyncio.sleep(1.0)
        self._oracle.broken("L3", f"what was split in vain at '{instant}' does not follow again")

    async def give_up_forgotten(self) -> None:
        """An agent that comes back gives up what it can't account for, and nothing else."""
        for instant in list(self._forgotten):
            await self.drop(instant)

    # ------------------------------------------------------------ the judge

    def rebased(self) -> list[int]:
        volumes = self._oracle.volumes
        return [
            volumes[each.remote.p_machine, each.remote.p_volume].history.rebased
            for each in self._members
        ]

    def _locals(self, instant: str) -> list[PairRecord]:
        found = (self._operator.record(each.local, m.Role.P_VOL) for each in self._members)
        return [record for record in found if record is not None and record.instant == instant]

    def _held(self, instant: str, *, split_remote: bool) -> Held:
        names = {record.name for record in self._locals(instant)}
        splits = [(each.remote, each.local) for each in self._members if each.local.name in names]
        if split_remote:
            splits += [(each.remote, each.remote) for each in self._members]
        images = []
        for remote, plan in splits:
            frozen = self._oracle.volumes[plan.s_machine, plan.s_volume].frozen
            if frozen is not None:
                images.append((remote, plan.s_volume, frozen))
        return Held(tuple(images))

    def judge_instant(self, instant: str, held: Held, began: int) -> None:
        """What ended before any write that is in one of the images began is in its own image."""
        volumes, ended = self._oracle.volumes, self._oracle.tick()
        latest = began
        for remote, _, image in held.images:
            history = volumes[remote.p_machine, remote.p_volume].history
            latest = max(latest, history.newest_in(image))
        for remote, volume, image in held.images:
            history = volumes[remote.p_machine, remote.p_volume].history
            wrong = history.wrong_instant(image, latest, ended)
            if wrong is not None:
                self._oracle.broken(
                    "L11",
                    f"{volume}, marked at '{instant}', is not the instant of {remote.p_volume} "
                    f"that the other volumes hold: {wrong}",
                )

    def _judge_guarded(self, instant: str) -> None:
        """Marked, and nobody has kept it yet: it must not pass for a backup."""
        for record in self._locals(instant):
            if record.state is m.PairState.PSUS and not record.guarded and not record.halted:
                self._oracle.broken(
                    "L11", f"'{record.name}' was marked at '{instant}' and would stay split"
                )

    def _judge_kept(self, instant: str, held: Held) -> None:
        """The secondary has said that all of them are one backup."""
        images = {volume: image for _, volume, image in held.images}
        for each in self._members:
            record = self._operator.record(each.local, m.Role.P_VOL)
            if record is None or record.halted:
                # It failed right behind the answer, or its controller did.
                return
            frozen = self._oracle.volumes[each.local.s_machine, each.local.s_volume].frozen
            if (record.state, record.instant) != (m.PairState.PSUS, instant):
                wrong = f"is in {record.state}, of instant '{record.instant}'"
            elif record.guarded or record.label != instant:
                wrong = "is not said to be a backup"
            elif frozen is not None and images.get(each.local.s_volume, frozen) != frozen:
                wrong = "holds something else than at the mark"
            else:
                continue
            self._oracle.broken("L11", f"'{instant}' was kept, and '{record.name}' {wrong}")

    def look(self) -> None:
        """At any time: a backup that nobody asked to keep is none, nor is a part of one."""
        for number in range(1, self._instants + 1):
            instant = f"instant-{number}"
            records = [each for each in self._locals(instant) if each.state is m.PairState.PSUS]
            kept = [record.name for record in records if record.label == instant]
            if kept and instant not in self._asked:
                self._oracle.broken("L11", f"{kept} are backups, and nobody kept '{instant}'")
            unkept = [record.name for record in records if record.guarded]
            if kept and unkept:
                self._oracle.broken(
                    "L11", f"of '{instant}' {kept} are backups and {unkept} are not"
                )
