"""One seed: a world is drawn, put through its paces, brought to rest and judged.

Owns the choice of everything a seed decides, and the result. The same seed gives the same trace
on every machine and under every PYTHONHASHSEED.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field
from random import Random

from controller.api import messages as m
from controller.volume.superblock import IntentSettings
from tests.sim.disk import Faults
from tests.sim.history import History
from tests.sim.hosts import Host
from tests.sim.life import live, uncaught
from tests.sim.loop import VirtualLoop
from tests.sim.machine import Machine
from tests.sim.net import Fabric
from tests.sim.operator import PairPlan
from tests.sim.oracle import Oracle, Tracked
from tests.sim.quiet import Quiet
from tests.sim.routine import Routine
from tests.sim.trace import Trace
from tests.sim.trouble import Trouble
from tests.sim.weather import draw_weather

GOOD = Faults(cold_read=0.0, slow_flush=0.0)


@dataclass
class Result:
    """What became of a seed."""

    seed: int
    broke: list[str] = field(default_factory=list)
    law: str = ""
    digest: str = ""
    lines: list[str] = field(default_factory=list)
    crashes: int = 0
    cuts: int = 0
    commands: int = 0
    writes: int = 0
    virtual_s: float = 0.0


class Simulation:
    """The world of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.result = Result(seed)
        self.rng = Random(seed)
        self.weather = draw_weather(Random(self.rng.random()))
        self.loop = VirtualLoop(self._uncaught)
        self.trace = Trace(self.loop)
        self.oracle = Oracle(self.trace, reads_fail=self.weather.data.read_error > 0)
        self.fabric = Fabric(Random(self.rng.random()), self.loop)
        self.size_bytes = self.rng.choice((256 << 10, 512 << 10, 1 << 20))
        self.plans = self._draw_plans()
        self.operator = Routine(
            self.oracle,
            Random(self.rng.random()),
            self.plans,
            self.size_bytes,
            self.weather.habits,
        )
        self._chaos = Random(self.rng.random())
        self._trouble = Trouble(self.oracle, self.fabric, self.operator, self.weather, self._chaos)
        self._make_machines()

    def _uncaught(self, message: str, error: BaseException | None) -> None:
        self.oracle.broken("UNCAUGHT", uncaught(message, error))

    def _draw_plans(self) -> list[PairPlan]:
        rng = self.rng
        remote, local = m.PairKind.REMOTE, m.PairKind.LOCAL

        def plan(name: str, kind: m.PairKind, *ends: str) -> PairPlan:
            p_machine, p_volume, s_machine, s_volume = ends
            mode = rng.choice(list(m.Mode))
            fence = rng.choice(list(m.Fence)) if kind is remote else m.Fence.NEVER
            return PairPlan(name, kind, p_machine, p_volume, s_machine, s_volume, mode, fence)

        plans = [
            plan("remote", remote, "a", "first", "b", "second"),
            plan("local", local, "b", "second", "b", "third"),
        ]
        if rng.random() < 0.25:
            plans.append(plan("other", remote, "c", "fourth", "b", "fifth"))
        if rng.random() < 0.25:
            # A second data set of the same primary, for a group.
            plans.append(plan("remote2", remote, "a", "sixth", "b", "seventh"))
            plans.append(plan("local2", local, "b", "seventh", "b", "eighth"))
        return plans

    def _make_machines(self) -> None:
        rng = self.rng
        weather = self.weather
        intent = IntentSettings(weather.extent_bytes, weather.hot_extents)
        names = sorted({name for plan in self.plans for name in (plan.p_machine, plan.s_machine)})
        peers = {"a": ["b"], "b": [name for name in names if name != "b"], "c": ["b"]}
        for name in names:
            self.oracle.machines[name] = Machine(
                name,
                peers[name],
                intent,
                self.loop,
                self.fabric,
                self.oracle,
                Random(rng.random()),
                (GOOD, GOOD) if name in weather.spared else (weather.data, weather.meta),
            )
        for plan in self.plans:
            for key in ((plan.p_machine, plan.p_volume), (plan.s_machine, plan.s_volume)):
                self.oracle.volumes.setdefault(key, Tracked(History(self.size_bytes)))

    # ------------------------------------------------------------ the story

    def run(self) -> Result:
        """Live through it."""
        result = self.result
        live(self.loop, self.oracle, self._story)
        result.virtual_s = self.loop.time()
        if self.oracle.broke:
            result.law = self.oracle.broke[0].law
        result.broke = [str(broken) for broken in self.oracle.broke]
        result.digest = self.trace.digest()
        result.lines = self.trace.lines
        result.commands = self.operator.commands
        result.writes = self.oracle.writes
        result.crashes, result.cuts = self._trouble.crashes, self._trouble.cuts
        return result

    async def _story(self) -> None:
        self._describe()
        hosts = self._hosts()
        working: list[asyncio.Future[None]] = []
        try:
            await self._set_up()
            working += [asyncio.ensure_future(host.run()) for host in hosts]
            if self.weather.prewritten:
                await asyncio.sleep(self._chaos.uniform(1, 3))
            self._faults(enabled=self.weather.rough_start)
            await self._make_pairs()
            self._faults(enabled=True)
            for host in hosts:
                self.loop.call_later(self.weather.duration_s + 1, host.tire)
            await self._trouble.run()
            self._calm_down()
            quiet = Quiet(self.oracle, self.operator, working, self.operator.groups)
            if self._chaos.random() < self.weather.habits.parting:
                await quiet.converge()
                for host in hosts:
                    host.rest()
                self._faults(enabled=True)
                self.weather.data.only_slow()
                self.weather.meta.only_slow()
                await self.operator.part_quickly()
                if self._chaos.random() < 0.5:
                    await self._trouble.crash(self.oracle.machines["b"])
                self._faults(enabled=False)
            elif self._chaos.random() < 0.5:
                await asyncio.sleep(self._chaos.uniform(0, 2))
            for host in hosts:
                host.stopping = True
            await quiet.run()
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        for task in working:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _calm_down(self) -> None:
        self._faults(enabled=False)
        self.trace.line("quiet: faults off")
        self.fabric.calm = True
        self.fabric.refused_until_s.clear()

    def _describe(self) -> None:
        for plan in self.plans:
            self.trace.line(
                f"pair {plan.name}: {plan.p_machine}/{plan.p_volume} -> "
                f"{plan.s_machine}/{plan.s_volume} {plan.mode} fence {plan.fence}"
            )
        self.trace.line(f"{self.size_bytes} bytes, {self.weather}")

    def _faults(self, *, enabled: bool) -> None:
        self.weather.data.enabled = self.weather.meta.enabled = enabled

    async def _set_up(self) -> None:
        self._faults(enabled=False)
        for machine in self.oracle.machines.values():
            await machine.start()
        for name, volume in self.oracle.volumes:
            await self.operator.create_volume(self.oracle.machines[name], volume)
        await asyncio.sleep(1)

    async def _make_pairs(self) -> None:
        """Make them, mostly in peace: what a seed has to break has to be there first."""
        plans = list(self.plans)
        if self._chaos.random() < 0.3:
            plans.reverse()
        for plan in plans:
            if self.rng.random() < 0.05:
                continue
            await self.operator.create_pair(plan)
            for _ in range(0 if self.weather.rough_start else 100):
                if self.operator.in_pair(plan):
                    break
                await asyncio.sleep(0.1)
        if self.operator.groups.possible:
            await self.operator.groups.create()

    def _hosts(self) -> list[Host]:
        hosts: list[Host] = []
        for name, volume in self.oracle.volumes:
            count = self.weather.hosts if name != "b" else 1
            hosts.extend(self._host(name, volume) for _ in range(count))
        return hosts

    def _host(self, name: str, volume: str) -> Host:
        machine, rng = self.oracle.machines[name], Random(self.rng.random())
        return Host(self.oracle, machine, volume, rng, pause_s=self.weather.host_pause_s)


def run_seed(seed: int) -> Result:
    """Run one seed."""
    if not gc.get_freeze_count():
        # What was imported stays; what a seed leaves is collected behind each, and soon.
        gc.collect()
        gc.freeze()
    result = Simulation(seed).run()
    gc.collect()
    return result
