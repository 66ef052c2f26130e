"""One seed: a world is drawn, put through its paces, brought to rest and judged.

Owns the choice of everything a seed decides, and the result. The same seed gives the same trace
on every machine and under every PYTHONHASHSEED.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from dataclasses import dataclass, field
from random import Random

from controller.api import messages as m
from controller.volumes import IntentSettings
from tests.sim import laws
from tests.sim.disk import CRASH_MODES, Faults
from tests.sim.history import History
from tests.sim.hosts import Host
from tests.sim.loop import Stuck, VirtualLoop
from tests.sim.machine import Machine
from tests.sim.net import Fabric
from tests.sim.operator import Operator, PairPlan
from tests.sim.oracle import Oracle, Tracked
from tests.sim.quiet import Quiet
from tests.sim.trace import Trace

LIMIT_S = 5000.0


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


@dataclass(frozen=True)
class Weather:
    """How bad a seed's world is."""

    duration_s: float
    crash_every_s: float
    cut_every_s: float
    command_every_s: float
    host_pause_s: float
    hosts: int
    data: Faults
    meta: Faults


def draw_weather(rng: Random) -> Weather:
    """Draw it."""
    bad_disk = rng.random() < 0.35
    data = Faults(
        read_error=rng.choice((0.0, 0.002)) if bad_disk else 0.0,
        write_error=rng.choice((0.0, 0.003)) if bad_disk else 0.0,
        flush_error=rng.choice((0.0, 0.003)) if bad_disk else 0.0,
        no_space=rng.choice((0.0, 0.01)) if bad_disk else 0.0,
        cold_read=rng.choice((0.0, 0.3, 1.0)),
        slow_flush=rng.choice((0.0, 0.02, 0.3)),
        read_s=rng.choice((0.01, 0.01, 0.3)),
    )
    meta = Faults(
        cold_read=0.1,
        slow_flush=rng.choice((0.0, 0.02, 0.2)),
        write_error=rng.choice((0.0, 0.0, 0.001)) if bad_disk else 0.0,
        flush_error=rng.choice((0.0, 0.0, 0.001)) if bad_disk else 0.0,
    )
    return Weather(
        duration_s=rng.uniform(6, 12),
        crash_every_s=rng.choice((1.0, 2.0, 4.0)),
        cut_every_s=rng.choice((1.5, 3.0, 8.0)),
        command_every_s=rng.choice((0.2, 0.6, 1.5)),
        host_pause_s=rng.choice((0.03, 0.08, 0.2)),
        hosts=rng.randint(1, 3),
        data=data,
        meta=meta,
    )


class Simulation:
    """The world of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.result = Result(seed)
        self.rng = Random(seed)
        self.weather = draw_weather(Random(self.rng.random()))
        self.loop = VirtualLoop(self._uncaught)
        self.trace = Trace(self.loop)
        self.oracle = Oracle(self.trace)
        self.fabric = Fabric(Random(self.rng.random()), self.loop)
        self.size_bytes = self.rng.choice((256 << 10, 512 << 10, 1 << 20))
        self.plans = self._draw_plans()
        self.operator = Operator(
            self.oracle, Random(self.rng.random()), self.plans, self.size_bytes
        )
        self._chaos = Random(self.rng.random())
        self._make_machines()

    def _uncaught(self, message: str, error: BaseException | None) -> None:
        text = message
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[::-1])
            text += f": {type(error).__name__}: {error} at {where}"
        self.oracle.broken("UNCAUGHT", text)

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
        return plans

    def _make_machines(self) -> None:
        rng = self.rng
        intent = IntentSettings(extent_bytes=16 << 10, hot_extents=rng.choice((4, 8, 16)))
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
                (self.weather.data, self.weather.meta),
            )
        for plan in self.plans:
            for key in ((plan.p_machine, plan.p_volume), (plan.s_machine, plan.s_volume)):
                self.oracle.volumes.setdefault(key, Tracked(History(self.size_bytes)))

    # ------------------------------------------------------------ the story

    def run(self) -> Result:
        """Live through it."""
        collecting = gc.isenabled()
        gc.disable()
        asyncio.set_event_loop(self.loop)
        logging.disable(logging.CRITICAL)
        result = self.result
        try:
            self.loop.run_until_complete(self._guarded())
        except Stuck as error:
            self.oracle.broken("STUCK", str(error))
        finally:
            logging.disable(logging.NOTSET)
            result.virtual_s = self.loop.time()
            for machine in self.oracle.machines.values():
                if machine.epoch is not None:
                    self.loop.kill(machine.epoch)
            for task in asyncio.all_tasks(self.loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            self.loop.close()
            asyncio.set_event_loop(None)
            if collecting:
                gc.enable()
        if self.oracle.broke:
            result.law = self.oracle.broke[0].law
        result.broke = [str(broken) for broken in self.oracle.broke]
        result.digest = self.trace.digest()
        result.lines = self.trace.lines
        result.commands = self.operator.commands
        result.writes = self.oracle.writes
        return result

    async def _guarded(self) -> None:
        story = asyncio.ensure_future(self._story())
        while not story.done() and not self.oracle.broke and self.loop.time() < LIMIT_S:
            await asyncio.wait([story], timeout=0.25)
        if story.done():
            story.result()
            return
        if not self.oracle.broke:
            self.oracle.broken("STUCK", f"not over after {LIMIT_S:.0f} s")
        for machine in self.oracle.machines.values():
            if machine.epoch is not None:
                self.loop.kill(machine.epoch)
        story.cancel()
        await asyncio.wait([story], timeout=1)

    async def _story(self) -> None:
        self._describe()
        await self._set_up()
        self._faults(enabled=True)
        hosts = self._hosts()
        working: list[asyncio.Future[None]] = [asyncio.ensure_future(host.run()) for host in hosts]
        try:
            await self._bad_times()
            self._faults(enabled=False)
            self.trace.line("quiet: faults off")
            self.fabric.calm = True
            self.fabric.refused_until_s.clear()
            if self._chaos.random() < 0.5:
                await asyncio.sleep(self._chaos.uniform(0, 2))
            for host in hosts:
                host.stopping = True
            await Quiet(self.oracle, self.operator, working).run()
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        for task in working:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

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
        for plan in self.plans:
            if self.rng.random() < 0.95:
                await self.operator.create_pair(plan)

    def _hosts(self) -> list[Host]:
        hosts: list[Host] = []
        for name, volume in self.oracle.volumes:
            count = self.weather.hosts if volume in ("first", "fourth") else 1
            hosts.extend(self._host(name, volume) for _ in range(count))
        return hosts

    def _host(self, name: str, volume: str) -> Host:
        machine, rng = self.oracle.machines[name], Random(self.rng.random())
        return Host(self.oracle, machine, volume, rng, pause_s=self.weather.host_pause_s)

    # ------------------------------------------------------------ what goes wrong

    async def _bad_times(self) -> None:
        weather, rng = self.weather, self._chaos
        end_s = self.loop.time() + weather.duration_s
        tasks = [
            asyncio.ensure_future(self._repeat(end_s, weather.crash_every_s, self._crash)),
            asyncio.ensure_future(self._repeat(end_s, weather.cut_every_s, self._cut)),
            asyncio.ensure_future(
                self._repeat(end_s, weather.command_every_s, self.operator.random)
            ),
            asyncio.ensure_future(self._repeat(end_s, 0.7, self._look)),
        ]
        if rng.random() < 0.3:
            tasks.append(
                asyncio.ensure_future(
                    self._repeat(end_s, weather.command_every_s, self.operator.random)
                )
            )
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _repeat(self, end_s: float, every_s: float, what: object) -> None:
        assert callable(what)
        while True:
            await asyncio.sleep(self._chaos.expovariate(1 / every_s))
            if self.loop.time() > end_s:
                return
            await what()

    async def _look(self) -> None:
        """What if everything lost power now?"""
        self._check_cover("were all machines to lose power now")

    def _check_cover(self, when: str) -> None:
        images: list[tuple[laws.Files, laws.Files]] = []
        for machine in self.oracle.machines.values():
            modes = [self._chaos.choice(CRASH_MODES) for _ in range(2)]
            images.append(
                (
                    machine.disk.after_crash(self._chaos, modes[0]),
                    machine.meta.after_crash(self._chaos, modes[1]),
                )
            )
        self.oracle.check_cover(images, when)

    async def _crash(self) -> None:
        rng = self._chaos
        machines = list(self.oracle.machines.values())
        victims = machines if rng.random() < 0.15 else [rng.choice(machines)]
        if rng.random() < 0.1:
            await self._restart(victims[0])
            return
        for machine in victims:
            if machine.up:
                mode = rng.choice(CRASH_MODES)
                self.result.crashes += 1
                self.trace.line(f"CRASH of {machine.name}, unflushed writes: {mode}")
                machine.crash(rng, mode)
        self._check_cover("at a crash")
        await asyncio.sleep(rng.choice((0.05, 0.5, 3.0)) * rng.random())
        for machine in victims:
            if not machine.up:
                await machine.start()

    async def _restart(self, machine: Machine) -> None:
        if machine.up:
            self.trace.line(f"clean restart of {machine.name}")
            await machine.stop()
        await machine.start()

    async def _cut(self) -> None:
        rng = self._chaos
        machines = [name for name in self.oracle.machines if name != "b"]
        other = rng.choice(machines)
        for_s = rng.choice((0.0, 0.3, 2.0, 6.0)) * rng.random()
        if rng.random() < 0.25:
            self.trace.line(f"STALL of the link {other}-b for {for_s:.2f} s")
            self.fabric.stall(other, "b", for_s)
            return
        half_open = rng.random() < 0.4
        self.result.cuts += 1
        self.trace.line(
            f"CUT of the link {other}-b for {for_s:.2f} s{', half open' if half_open else ''}"
        )
        self.fabric.cut(other, "b", for_s, half_open=half_open)


def run_seed(seed: int) -> Result:
    """Run one seed."""
    return Simulation(seed).run()
