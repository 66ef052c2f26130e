"""What goes wrong in a seed, and when: crashes, cuts, stalls, decay, and the looks in between.

Owns the times and the victims. Trouble comes at random, and close behind commands, where the
controllers are between two steps. Must not judge: the oracle is asked after each crash and look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

from controller.pair.record import PairRecord
from tests.sim import laws
from tests.sim.disk import CRASH_MODES
from tests.sim.loop import WORLD
from tests.sim.machine import Machine
from tests.sim.net import Fabric
from tests.sim.oracle import Oracle
from tests.sim.routine import Routine
from tests.sim.weather import Weather

LOOK_EVERY_S = 0.3
FOLLOWS_WITHIN_S = (0.01, 0.1, 0.4)


class Trouble:
    """The bad times of a seed."""

    def __init__(
        self, oracle: Oracle, fabric: Fabric, operator: Routine, weather: Weather, rng: Random
    ) -> None:
        self._oracle = oracle
        self._fabric = fabric
        self._operator = operator
        self._weather = weather
        self._rng = rng
        self._following: dict[asyncio.Task[None], None] = {}
        self._over = False
        self.crashes = 0
        self.cuts = 0

    async def run(self) -> None:
        """Live through it; returns when the last fault is over."""
        weather = self._weather
        end_s = asyncio.get_running_loop().time() + weather.duration_s
        repeated: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (weather.crash_every_s, self.crash),
            (weather.cut_every_s, self._cut),
            (weather.command_every_s, self._operator.random),
            (LOOK_EVERY_S, self._look),
        ]
        if weather.habits.overlap:
            repeated.append((weather.command_every_s, self._operator.random))
        tasks = [asyncio.ensure_future(self._repeat(end_s, *each)) for each in repeated]
        self._operator.on_command = self._follow
        self._oracle.on_state = self._state_changed
        try:
            await asyncio.gather(*tasks)
            self._over = True
            if self._following:
                await asyncio.wait(self._following)
        finally:
            self._operator.on_command = lambda _machine: None
            self._oracle.on_state = lambda _record: None
            for task in [*tasks, *self._following]:
                task.cancel()
        self._raise_mistakes()

    def _raise_mistakes(self) -> None:
        for task in self._following:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _repeat(self, end_s: float, every_s: float, what: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / every_s))
            if loop.time() > end_s:
                return
            done = what()
            assert isinstance(done, Awaitable)
            await done

    def _follow(self, machine: Machine) -> None:
        """A command was given: does something go wrong while it is carried out?"""
        rng = self._rng
        if rng.random() < self._weather.trouble_follows:
            hit = machine if rng.random() < 0.6 else None
            self._soon(self._cut if rng.random() < 0.5 else lambda: self.crash(hit))

    def _state_changed(self, record: PairRecord) -> None:
        """A pair has taken a step, and the next one has begun."""
        rng = self._rng
        if rng.random() < self._weather.trouble_follows:
            self._soon(self._cut if rng.random() < 0.8 else self.crash)
        if rng.random() < self._weather.habits.haste:
            self._soon(lambda: self._operator.go_on(record.name))

    def _soon(self, what: Callable[[], Coroutine[Any, Any, object]]) -> None:
        rng = self._rng
        delay_s = rng.expovariate(1 / rng.choice(FOLLOWS_WITHIN_S))
        if self._over:
            return

        async def later() -> None:
            await asyncio.sleep(delay_s)
            await what()

        # In the world's context: a crash of the machine whose step this is must not take it away.
        task = asyncio.get_running_loop().create_task(later(), context=WORLD.copy())
        self._following[task] = None

    # ------------------------------------------------------------ looks

    async def _look(self) -> None:
        """What if everything lost power now?"""
        self._check_cover("were all machines to lose power now")
        self._oracle.look()
        self._operator.groups.look()

    def _check_cover(self, when: str) -> None:
        images: list[tuple[laws.Files, laws.Files]] = []
        for machine in self._oracle.machines.values():
            modes = [self._rng.choice(CRASH_MODES) for _ in range(2)]
            images.append(
                (
                    machine.disk.after_crash(self._rng, modes[0]),
                    machine.meta.after_crash(self._rng, modes[1]),
                )
            )
        self._oracle.check_cover(images, when)

    # ------------------------------------------------------------ machines

    async def crash(self, hit: Machine | None = None) -> None:
        """Some machines lose power, or one is restarted, and all come back."""
        rng = self._rng
        machines = list(self._oracle.machines.values())
        victims = machines if rng.random() < 0.15 else [hit or rng.choice(machines)]
        if rng.random() < 0.1:
            await self._restart(victims[0])
            return
        for machine in victims:
            if machine.up:
                mode = rng.choice(CRASH_MODES)
                self.crashes += 1
                self._oracle.event(f"CRASH of {machine.name}, unflushed writes: {mode}")
                machine.crash(rng, mode)
        self._check_cover("at a crash")
        for machine in victims:
            # Not beneath a controller that has begun to read it: that would see only a part.
            if not machine.running and rng.random() < self._weather.decay:
                self._oracle.event(f"DECAY of {machine.meta.decay(rng)} of {machine.name}")
        await asyncio.sleep(rng.choice((0.05, 0.3, 2.0)) * rng.random())
        for machine in victims:
            if not machine.up:
                await machine.start()

    async def _restart(self, machine: Machine) -> None:
        if machine.up:
            self._oracle.event(f"clean restart of {machine.name}")
            await machine.stop()
        await machine.start()

    # ------------------------------------------------------------ links

    async def _cut(self) -> None:
        rng, fabric = self._rng, self._fabric
        other = rng.choice([name for name in self._oracle.machines if name != "b"])
        for_s = rng.choice((0.0, 0.0, 0.3, 1.0, 4.0)) * rng.random()
        kind = rng.random()
        if kind < 0.15:
            self._oracle.event(f"STALL of the link {other}-b for {for_s:.2f} s")
            fabric.stall(other, "b", for_s)
            return
        if kind < 0.5:
            await self._strand(other)
            return
        half_open = rng.random() < 0.3
        self.cuts += 1
        self._oracle.event(
            f"CUT of the link {other}-b for {for_s:.2f} s{', half open' if half_open else ''}"
        )
        fabric.cut(other, "b", for_s, half_open=half_open)

    async def _strand(self, other: str) -> None:
        """Bytes linger somewhere, and arrive when a new connection is up (law L9)."""
        rng = self._rng
        late_s = rng.uniform(1, 6)
        self._fabric.linger(other, "b", late_s)
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        ends = [other, "b"]
        if rng.random() < 0.3:
            ends.reverse()
        self.cuts += 1
        self._oracle.event(f"CUT of the link {other}-b at {ends[0]}; old bytes come late")
        self._fabric.strand(*ends)
