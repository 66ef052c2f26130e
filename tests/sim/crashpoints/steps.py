"""The steps a story is told in: what hosts, operators and accidents do, one after another.

Owns the way from a scenario's words to the simulated world. After the crash under test no
further step begins (`StoryOver`); the one under way may end. Must not judge beyond what hosts
and the operator of the simulator judge themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from controller.api import messages as m
from targets.lun import Access
from tests.sim.crashpoints.world import (
    BLOCK_BYTES,
    KEYS,
    RESTART_AFTER_S,
    SIZE_BYTES,
    StoryOver,
    World,
)
from tests.sim.disk import CrashMode
from tests.sim.hosts import Host
from tests.sim.loop import Died
from tests.sim.machine import Machine
from tests.sim.operator import Answered, PairPlan, turned

POLL_S = 0.002
WITHIN_S = 60.0
SETTLE_S = 0.1
"""What trails behind the last step: acknowledgements, a commit, a flush."""


class ScriptedHost(Host):
    """A host that writes where it is told."""

    def __init__(self, world: World, machine: Machine, volume: str) -> None:
        super().__init__(world.oracle, machine, volume, Random(0), pause_s=1.0)
        self.at = (0, 0)

    def _range(self) -> tuple[int, int]:
        return self.at


class Steps:
    """One story's hands."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._hosts: dict[str, ScriptedHost] = {}
        self._written = "first"
        """The volume that hosts write to."""

    def _next(self) -> None:
        if self.world.over:
            raise StoryOver

    def machine(self, name: str) -> Machine:
        """One of the two."""
        return self.world.oracle.machines[name]

    def plan(self, name: str) -> PairPlan:
        """A pair that should exist."""
        return next(plan for plan in self.world.plans if plan.name == name)

    # ------------------------------------------------------------ hosts

    def _host(self, volume: str) -> ScriptedHost:
        host = self._hosts.get(volume)
        if host is None:
            host = ScriptedHost(self.world, self.machine(KEYS[volume]), volume)
            self._hosts[volume] = host
        return host

    async def write(
        self,
        block: float,
        blocks: float = 1,
        *,
        volume: str = "first",
        fua: bool = False,
        discard: bool = False,
    ) -> None:
        """A write or discard of a host; blocks may be cut at 512 bytes."""
        self._next()
        if self.machine(KEYS[volume]).volume(volume) is None:
            return
        if volume.removesuffix("2") != self._written:
            self.world.judge.two_writers = True
        host = self._host(volume)
        host.at = (int(block * BLOCK_BYTES), int(blocks * BLOCK_BYTES))
        try:
            await host.write(fua=fua, discard=discard)
        except Died:
            raise StoryOver from None

    async def flush(self, volume: str = "first") -> None:
        """SYNCHRONIZE CACHE."""
        self._next()
        if self.machine(KEYS[volume]).volume(volume) is None:
            return
        try:
            await self._host(volume).flush()
        except Died:
            raise StoryOver from None

    def meanwhile(self, step: Coroutine[Any, Any, Any]) -> None:
        """Begin a step and go on with the story."""
        self.world.working.append(asyncio.ensure_future(step))

    # ------------------------------------------------------------ operators

    async def give(self, machine: str, verb: str, params: m.Params) -> Answered:
        """A command; refused ones count as a mistake of the scenario."""
        self._next()
        return self._answered(await self.world.operator.give(self.machine(machine), verb, params))

    def _answered(self, answer: Answered) -> Answered:
        world = self.world
        if answer.refused is not None and not world.over:
            world.oracle.broken("SCENARIO", f"a command was refused: {answer.refused}")
        if world.over:
            raise StoryOver
        return answer

    async def split(
        self,
        pair: str = "remote",
        *,
        writable: bool = False,
        quick: bool = False,
        answered: bool = True,
    ) -> None:
        """Split, and hold the S-VOL against the instant even when no answer comes."""
        self._next()
        plan = self.plan(pair)
        # A local pair's instant is one of the remote stream: only its end is known.
        began = self.world.oracle.tick() if pair == "remote" else -1
        under_way = (plan, began, plan.s_machine, plan.s_volume)
        self.world.judge.splits.append(under_way)
        answer = await self.world.operator.split(plan, writable=writable, quick=quick)
        if not self.world.over:
            self.world.judge.splits.remove(under_way)
        if answered:
            self._answered(answer)

    async def mark(self, pair: str = "local", *, split_remote: bool = False) -> None:
        """Take a backup: a local mirror, or the second as well, gets one instant of the first."""
        self._next()
        remote, local = self.plan("remote"), self.plan(pair)
        began = self.world.oracle.tick()
        ends = [local, remote] if split_remote else [local]
        under_way = [(remote, began, end.s_machine, end.s_volume) for end in ends]
        self.world.judge.splits += under_way
        answer = await self.world.operator.mark(remote, local, split_remote=split_remote)
        if not self.world.over:
            self.world.judge.splits = []
        self._answered(answer)

    async def group_backup(self, *, keep: bool, split_remote: bool = False) -> None:
        """A backup of both data sets, as an agent takes one; they are kept together, or dropped."""
        self._next()
        groups = self.world.groups
        held = await groups.mark("instant-1", split_remote=split_remote, deadline_s=30.0)
        if self.world.over:
            raise StoryOver
        if held is None:
            self.world.oracle.broken("SCENARIO", "the group was not marked")
        elif keep:
            await groups.keep("instant-1", held)
        else:
            await groups.drop("instant-1")
        self._next()

    async def group_split(self, *, writable: bool = False) -> None:
        """Split both remote pairs at one instant."""
        self._next()
        await self.world.group_splits.split(writable=writable, deadline_s=30.0)
        self._next()

    async def group_resync(self, *, refused: bool = False) -> None:
        """Bring both back, or be refused with none begun."""
        self._next()
        answer = await self.world.group_splits.resync(None, force=False, deadline_s=30.0)
        if not refused:
            self._answered(answer)
        elif answer.refused is None and not self.world.over:
            self.world.oracle.broken("SCENARIO", "the group's resync was not refused")
        self._next()

    async def resync(
        self, pair: str = "remote", *, reverse: bool = False, full: bool = False
    ) -> None:
        """Begin a copy; `until` waits for its end."""
        self._next()
        answer = await self.world.operator.resync(self.plan(pair), reverse=reverse, full=full)
        self._answered(answer)

    async def swap(self, *, back: bool = False, answered: bool = True) -> None:
        """Exchange the roles of the remote pair, and wait until the other side mirrors."""
        self._next()
        plan = turned(self.plan("remote")) if back else self.plan("remote")
        answer = await self.world.operator.swap(plan)
        if not answered:
            return
        self._answered(answer)
        self._written = plan.s_volume
        after = turned(plan)
        await self.when(lambda: self.mirrors(after))
        await self.opened(after.p_volume)

    def either(self) -> tuple[PairPlan, PairPlan]:
        """The remote pair, whoever has the P-VOL's role."""
        return self.plan("remote"), turned(self.plan("remote"))

    def mirrors(self, plan: PairPlan) -> bool:
        """Whether both sides show PAIR, in these roles."""
        records = [self.world.operator.record(plan, role) for role in m.Role]
        return all(each is not None and each.state is m.PairState.PAIR for each in records)

    async def takeover(self) -> None:
        """The second's hosts may write, whatever has become of the first."""
        self._next()
        plan = self.plan("remote")
        self._answered(await self.world.operator.takeover(plan))
        await self.opened(plan.s_volume)
        self._written = plan.s_volume

    async def swap_alone(self) -> None:
        """The roles follow a takeover."""
        self._next()
        self._answered(await self.world.operator.swap_alone(self.plan("remote")))

    async def keep(self) -> None:
        """An operator says that the first leads on, because the second will not come back."""
        self._next()
        plan = self.plan("remote")

        def cut_off() -> bool:
            record = self.world.operator.record(plan, m.Role.P_VOL)
            return record is not None and record.state is m.PairState.PSUE

        await self.when(cut_off)
        self._answered(await self.world.operator.keep(plan))
        await self.opened(plan.p_volume)
        self._written = plan.p_volume

    async def follow(self) -> None:
        """Behind that, the first is the second's mirror."""
        away = self.either()[1]
        await self.when(lambda: self.world.operator.record(away, m.Role.S_VOL) is not None)
        self._answered(await self.world.operator.resync(away, reverse=False))
        await self.when(lambda: self.mirrors(away))

    async def create_pair(self, pair: str) -> None:
        """Bind two volumes; the initial copy begins."""
        self._next()
        self._answered(await self.world.operator.create_pair(self.plan(pair)))

    async def delete_pair(self, pair: str) -> None:
        """Dissolve a pair."""
        self._next()
        self._answered(await self.world.operator.delete(self.plan(pair)))

    async def create_volume(self, name: str) -> None:
        """Make a volume on 'b'."""
        self._next()
        self._answered(await self.world.operator.create_volume(self.machine("b"), name))

    async def write_view(self, block: int) -> None:
        """A host writes to the view (law L13: the third volume stays as it is)."""
        self._next()
        machine = self.machine("b")
        view = machine.volume("view")
        assert view is not None
        data = bytes([0xAB]) * 1536
        try:
            await machine.io(
                lambda done: view.write(block * BLOCK_BYTES, memoryview(data), False, done)
            )
        except Died:
            raise StoryOver from None

    # ------------------------------------------------------------ waiting

    async def when(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be so."""
        end_s = self.world.loop.time() + WITHIN_S
        while True:
            self._next()
            if condition():
                return
            if self.world.loop.time() > end_s:
                self.world.oracle.broken("SCENARIO", f"the story waits for ever: {self._states()}")
                raise StoryOver
            await asyncio.sleep(POLL_S)

    def _states(self) -> str:
        states = []
        for plan in self.world.plans:
            for role in m.Role:
                record = self.world.operator.record(plan, role)
                states.append(f"{plan.name} {role}: {record and (record.state, record.reason)}")
        return ", ".join(states)

    async def until(self, pair: str = "remote", state: m.PairState = m.PairState.PAIR) -> None:
        """Wait until the P-VOL shows a state and the S-VOL what belongs to it."""
        other = m.PairState.SSUS if state is m.PairState.PSUS else state

        def reached() -> bool:
            operator, plan = self.world.operator, self.plan(pair)
            p = operator.record(plan, m.Role.P_VOL)
            s = operator.record(plan, m.Role.S_VOL)
            return p is not None and s is not None and p.state is state and s.state is other

        await self.when(reached)

    async def opened(self, volume: str) -> None:
        """Wait until hosts may write."""

        def may_write() -> bool:
            served = self.machine(KEYS[volume]).volume(volume)
            return served is not None and served.access is Access.READ_WRITE

        await self.when(may_write)

    async def settle(self) -> None:
        """Let what trails behind come to its end."""
        self._next()
        await asyncio.sleep(SETTLE_S)

        def idle() -> bool:
            volumes = [self.machine(at).volume(name) for at, name in self.world.oracle.volumes]
            return all(volume is None or volume.idle for volume in volumes)

        await self.when(idle)

    # ------------------------------------------------------------ accidents

    async def copying(self, pair: str, role: m.Role) -> None:
        """Wait until the target of a copy has got data."""

        def some() -> bool:
            plan = self.plan(pair)
            name = plan.p_machine if role is m.Role.P_VOL else plan.s_machine
            if not self.machine(name).up:
                return False
            owners = self.machine(name).node.pairs.owners()
            sides = [o.side for o in owners if o.record.name == pair and o.record.role is role]
            return any(side.sinking and side.payload_bytes > 0 for side in sides)

        await self.when(some)

    async def cut(self, for_s: float = 0.3) -> None:
        """The link is cut; the bytes under way may arrive in part."""
        self._next()
        self.world.trace.line(f"CUT of the link for {for_s:.2f} s")
        self.world.fabric.cut("a", "b", for_s, half_open=False)
        await asyncio.sleep(0.06)

    async def lingering(self, for_s: float) -> None:
        """What is sent from here on is still on its way when the link is cut."""
        self._next()
        self.world.trace.line(f"bytes LINGER for {for_s:.2f} s")
        self.world.fabric.linger("a", "b", for_s)

    async def plug_pulled(self, mode: CrashMode, *names: str) -> None:
        """A first crash, part of the story; the one under test comes while it is mended."""
        self._next()
        rng = Random(5)
        for name in names:
            self.world.trace.line(f"CRASH of {name}, unflushed writes: {mode}")
            self.machine(name).crash(rng, mode)
        if mode != "keep":
            # What a crash leaves of unflushed writes is no instant of them.
            self.world.judge.two_writers = True
        await asyncio.sleep(RESTART_AFTER_S)

    async def start(self, *names: str) -> None:
        """Start controllers again."""
        for name in names:
            self._next()
            await self.machine(name).start()

    async def stop(self, name: str) -> None:
        """A clean stop."""
        self._next()
        try:
            await self.machine(name).stop()
        except Died:
            raise StoryOver from None


async def set_up(world: World) -> None:
    """Two controllers, volumes with something in them, and pairs at rest."""
    steps = Steps(world)
    for machine in world.oracle.machines.values():
        await machine.start()
    for machine_name, volume in world.oracle.volumes:
        if volume in KEYS:
            await world.operator.create_volume(steps.machine(machine_name), volume)
    await steps.when(lambda: all(world.oracle.machines["a"].node.peers().values()))
    # The last blocks first: a copy goes upwards, so that half of one is no instant.
    for block in (9, 5, 3, 0):
        await steps.write(block)
    await steps.flush()
    if world.setting.paired:
        for plan in world.plans:
            await world.operator.create_pair(plan)
            await steps.until(plan.name)
    await steps.settle()


assert SIZE_BYTES % BLOCK_BYTES == 0
