"""Splits and resyncs of a group: at one instant, and all of its pairs or none (law L11).

Owns the commands and what each of them promised. The instant is judged as that of a backup is
(`group_backups`). Must not look into the controllers beyond what pairs' records say.
"""

from __future__ import annotations

import asyncio
import contextlib

from controller.api import messages as m
from controller.api.codes import Code
from controller.pair.owner import PairOwner
from tests.sim.group_backups import GROUP, PRIMARY, GroupBackups, Held, members_of
from tests.sim.operator import Answered, Operator, PairPlan

DEADLINES_S = (0.2, 3.0, 30.0)
BEGUN_WITHIN_S = 1.0
BEGUN = "has begun"
"""What a resync says that could not be seen through for all."""


class GroupSplits:
    """An operator of a group, and the judge of that."""

    def __init__(self, operator: Operator, backups: GroupBackups) -> None:
        self._operator = operator
        self._oracle = operator.oracle
        self._backups = backups
        self._remotes: list[PairPlan] = [each.remote for each in members_of(operator.plans)]

    async def random(self) -> None:
        """Split it, or bring it back."""
        rng = self._operator.rng
        if rng.random() < 0.5:
            if rng.random() < 0.8:
                await self._operator.bring_in_sync(self._remotes)
            await self.split(writable=rng.random() < 0.4, deadline_s=rng.choice(DEADLINES_S))
        if rng.random() < 0.8:
            direction = rng.choice((None, None, m.Direction.FORWARD, m.Direction.REVERSE))
            force, deadline_s = rng.random() < 0.7, rng.choice(DEADLINES_S)
            await self.resync(direction, force=force, deadline_s=deadline_s)

    async def split(self, *, writable: bool, deadline_s: float) -> None:
        """Split all of it at one instant."""
        oracle = self._oracle
        params = m.GroupSplit(name=GROUP, writable=writable, deadline_s=deadline_s)
        began, rebased = oracle.tick(), self._backups.rebased()
        answer, alone = await self._give("group.split", params)
        if not answer.done or not alone:
            return
        states = {each.name: self._state(each) for each in self._remotes}
        if set(states.values()) - {m.PairState.PSUS, None}:
            oracle.broken("L11", f"the group was split, and its pairs are in {states}")
        if not writable and rebased == self._backups.rebased():
            self._backups.judge_instant("the split", self._held(), began)

    async def resync(
        self, direction: m.Direction | None, *, force: bool, deadline_s: float
    ) -> Answered:
        """Bring all of it back; where that is refused, none of it has begun."""
        params = m.GroupResync(name=GROUP, direction=direction, force=force, deadline_s=deadline_s)
        split = self._split()
        with contextlib.ExitStack() as naming:
            for each in self._remotes:
                naming.enter_context(self._operator.naming(each, direction))
            answer, alone = await self._give("group.resync", params)
        refused = answer.refused
        if refused is None or BEGUN in refused.message or not alone:
            return answer
        commands = self._operator.commands
        await asyncio.sleep(BEGUN_WITHIN_S)
        if self._operator.commands != commands:
            return answer
        begun = split & {each.record.name for each in self._owners() if each.record.goal != "split"}
        if begun:
            self._oracle.broken(
                "L11",
                f"the resync of the group was refused ({refused.message}), and {sorted(begun)} "
                "have begun",
            )
        return answer

    async def _give(self, verb: str, params: m.Params) -> tuple[Answered, bool]:
        """The answer, and whether no other command came beside it, and no crash of the primary."""
        machine = self._oracle.machines[PRIMARY]
        before, epoch, idle = self._operator.commands, machine.epoch, not self._operator.under_way
        answer = await self._operator.give(machine, verb, params)
        if answer.refused is not None and answer.refused.code is Code.NOT_FOUND:
            await self._backups.create()
            return answer, False
        alone = idle and self._operator.commands == before + 1 and machine.epoch is epoch
        return answer, alone

    def _owners(self) -> list[PairOwner]:
        """The P-VOL's sides of those pairs that go on."""
        machine = self._oracle.machines[PRIMARY]
        found = [machine.node.pairs.find(each.name) for each in self._remotes if machine.up]
        return [
            owner
            for owner in found
            if owner is not None and owner.record.role is m.Role.P_VOL and not owner.record.halted
        ]

    def _split(self) -> set[str]:
        """Pairs that are to stay split, and have nothing else to do."""
        return {
            owner.record.name
            for owner in self._owners()
            if owner.record.goal == "split" and owner._inbox.empty()
        }

    def _state(self, plan: PairPlan) -> m.PairState | None:
        record = self._operator.record(plan, m.Role.P_VOL)
        return None if record is None or record.halted else record.state

    def _held(self) -> Held:
        images = [
            (each, each.s_volume, frozen)
            for each in self._remotes
            if (frozen := self._oracle.volumes[each.s_machine, each.s_volume].frozen) is not None
        ]
        return Held(tuple(images))
