"""What operators do all day: every verb at random times, by the state of a pair and by habit.

Owns the choice of what is done next. Must not judge: the commands themselves do (`operator`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from controller.api import messages as m
from controller.pair.record import PairRecord
from controller.volume.volume import Volume
from tests.sim.group_backups import GroupBackups
from tests.sim.group_splits import GroupSplits
from tests.sim.looking import look_through
from tests.sim.loop import Died
from tests.sim.machine import Machine
from tests.sim.operator import PARTED, Operator, PairPlan, split_brain
from tests.sim.oracle import Oracle
from tests.sim.weather import Habits


class Routine(Operator):
    """An operator at work."""

    def __init__(
        self,
        oracle: Oracle,
        rng: Random,
        plans: list[PairPlan],
        size_bytes: int,
        habits: Habits,
    ) -> None:
        super().__init__(oracle, rng, plans, size_bytes, habits)
        self.groups = GroupBackups(self)
        self.group_splits = GroupSplits(self, self.groups)

    async def random(self) -> None:
        """Something an operator might do now."""
        rng = self.rng
        plan = self.now(rng.choice(self.plans))
        can: list[tuple[float, Callable[[], Awaitable[object]]]] = [
            (0.08, self._look),
            (self.habits.mark, self.backup),
            (self.habits.mark if self.groups.possible else 0.0, self.groups.backup),
            (self.habits.grouped if self.groups.possible else 0.0, self.group_splits.random),
            (0.08, self._view),
            (self.habits.delete, lambda: self.delete(plan, force=rng.random() < 0.3)),
            (self.habits.restore, self.restore),
            (0.15, self._mend),
            (0.03, lambda: self.takeover(plan)),
            (self.habits.swap, lambda: self._exchange(plan)),
        ]
        chance = rng.random()
        for share, what in can:
            chance -= share
            if chance < 0:
                await what()
                return
        await self._by_state(plan)

    async def _mend(self) -> None:
        """Replace a volume whose disk has failed, as quiet times do."""
        for name, volume_name in self.oracle.volumes:
            volume = self.oracle.machines[name].volume(volume_name)
            if volume is not None and not volume.state.healthy:
                await self.replace(self.oracle.machines[name], volume_name)
                return

    async def go_on(self, name: str) -> None:
        """Give what a pair's state allows, at once."""
        await self._by_state(self.now(next(plan for plan in self.plans if plan.name == name)))

    async def _by_state(self, plan: PairPlan) -> None:
        rng = self.rng
        record = self.record(plan, m.Role.P_VOL)
        at = None
        if rng.random() < 0.2:
            at = self.oracle.machines[plan.s_machine]
        if record is None:
            await self.create_pair(plan)
        elif plan.kind is m.PairKind.LOCAL and rng.random() < self.habits.quick:
            if not record.behind or rng.random() < 0.1:
                await self._quick(plan, record.state)
        elif record.state is m.PairState.PAIR:
            if rng.random() < self.habits.mark and all(map(self.in_pair, self.plans[:2])):
                await self.mark(self.plans[0], self.plans[1])
            elif rng.random() < 0.3:
                limited = rng.random() < self.habits.rate_limit
                await self.verify(plan, repair=rng.random() < 0.3, limited=limited)
            elif rng.random() >= self.habits.patience:
                await self.split(plan, writable=rng.random() < 0.5, at=at)
        elif record.state in PARTED:
            await self._parted(plan, record, at)
        elif rng.random() < 0.2:
            await self.resync(plan, reverse=rng.random() < 0.5)

    async def _parted(self, plan: PairPlan, record: PairRecord, at: Machine | None) -> None:
        """What there is to do with a pair that is split, or was parted."""
        rng = self.rng
        if rng.random() < 0.15:
            await self.split(plan, writable=rng.random() < 0.5, at=at)
        elif rng.random() < 0.1 or split_brain(record):
            await self.resolve(plan, discard_p=rng.random() < 0.5, at=at)
        else:
            reverse = rng.random() < 0.35
            full, force = rng.random() < 0.1, rng.random() < 0.7
            limited = rng.random() < self.habits.rate_limit
            await self.resync(
                plan,
                reverse=reverse,
                full=full,
                force=force,
                limited=limited,
                named=rng.random() < 0.6,
                at=at,
            )

    async def _exchange(self, plan: PairPlan) -> None:
        """Swap the roles, mostly out of PAIR; where that is cut off, the P-VOL may keep its own."""
        rng = self.rng
        if plan.kind is m.PairKind.LOCAL:
            return
        follower = self.record(plan, m.Role.S_VOL)
        if follower is not None and follower.state is m.PairState.SSWS:
            await self.swap_alone(plan)
            return
        if rng.random() < 0.8:
            await self.bring_in_sync([plan])
        await self.swap(plan, force=rng.random() < 0.9)
        await asyncio.sleep(rng.choice((0.0, 0.1, 1.0)) * rng.random())
        leader = self.record(plan, m.Role.P_VOL)
        if leader is not None and leader.closed == "swapping" and rng.random() < 0.5:
            await self.keep(plan)

    async def _quick(self, plan: PairPlan, state: m.PairState) -> None:
        """A quick split, out of a split or a copy; often one that is slow."""
        rng = self.rng
        if state is m.PairState.PAIR:
            await self.split(plan, writable=False)
            await asyncio.sleep(rng.uniform(0, 1))
        if state is not m.PairState.COPY and rng.random() < 0.5:
            await self.resync(plan, reverse=False, named=rng.random() < 0.6, limited=True)
        await self.split(plan, writable=rng.random() < 0.2, quick=True)
        if rng.random() < 0.5:
            await self._open_view()
            if rng.random() < 0.8:
                await self._close_view()

    async def part_quickly(self) -> None:
        """A quick split of what mirrors hosts' writes: it has to end by itself."""
        local = self.plans[1]
        await self.split(local, writable=False)
        await asyncio.sleep(self.rng.uniform(1, 3))
        await self.split(local, writable=False, quick=True)
        await asyncio.sleep(self.rng.uniform(0, 0.5))

    async def _look(self) -> None:
        machine = self.rng.choice(list(self.oracle.machines.values()))
        verb = self.rng.choice(("node.show", "volume.list", "pair.list"))
        await self.give(machine, verb, m.Empty())

    async def _view(self) -> None:
        if self.rng.random() < 0.5:
            await self._open_view()
        else:
            await self._close_view()

    async def _open_view(self) -> None:
        machine = self.oracle.machines["b"]
        asked = m.ViewOpen(volume="third", view="view")
        answer = await self.give(machine, "view.open", asked)
        view = machine.volume("view")
        if answer.done and view is not None:
            try:
                await look_through(self, machine, "local", view)
                await self._write_view(machine, view)
            except Died:
                return

    async def _close_view(self) -> None:
        await self.give(self.oracle.machines["b"], "view.close", m.Named(name="view"))

    async def _write_view(self, machine: Machine, view: Volume) -> None:
        """Law L13: whatever is written to a view, the third stays (`frozen` tells)."""
        if machine.volume("view") is not view:
            # Somebody else's by now, who looks through it.
            return
        data = bytes([0xAB]) * 1536
        offset = self.rng.randrange(0, self.size_bytes // 512 - 3) * 512
        await machine.io(lambda done: view.write(offset, memoryview(data), False, done))

    async def backup(self) -> None:
        """A backup: what is split follows again, and when both pairs are in sync, the mark."""
        remote, local = self.plans[:2]
        quick = self.rng.random() < self.habits.quick
        if self.rng.random() < 0.7:
            for plan in (remote, local):
                record = self.record(plan, m.Role.P_VOL)
                if record is not None and record.state in PARTED:
                    await self.resync(plan, reverse=False)
            for _ in range(40):
                if self.in_pair(remote) and (quick or self.in_pair(local)):
                    break
                await asyncio.sleep(0.1)
        await self.mark(remote, local, split_remote=self.rng.random() < 0.3, quick=quick)

    async def restore(self) -> None:
        """A whole restore: second from third, then first from second (law L6)."""
        remote, local = self.plans[0], self.plans[1]
        await self.split(remote, writable=self.rng.random() < 0.5)
        await self.split(local, writable=False)
        await asyncio.sleep(self.rng.uniform(0, 0.5))
        await self.resync(local, reverse=True)
        await asyncio.sleep(self.rng.uniform(0, 2))
        await self.resync(remote, reverse=True)
