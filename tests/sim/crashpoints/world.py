"""Two controllers at rest, a short story, a crash in the midst of it, and the way back.

Owns the run of one scenario: its machines on a virtual clock, the loss of power at one boundary,
the restart and the judgement. The same scenario gives the same boundaries each time, whatever
the crash does behind them. Must not know what a scenario is about.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random

from controller.api import messages as m
from controller.volume.superblock import IntentSettings
from tests.sim.crashpoints.boundary import Boundary, CountedDisk
from tests.sim.crashpoints.judge import Judge
from tests.sim.crashpoints.record import Archive
from tests.sim.disk import CrashMode, Faults
from tests.sim.group_backups import GroupBackups
from tests.sim.group_splits import GroupSplits
from tests.sim.life import live, uncaught
from tests.sim.loop import WORLD, Epoch, VirtualLoop
from tests.sim.machine import Machine
from tests.sim.net import Fabric
from tests.sim.operator import Operator, PairPlan
from tests.sim.oracle import Oracle, Tracked
from tests.sim.quiet import Quiet
from tests.sim.trace import Trace
from tests.sim.weather import Habits

BLOCK_BYTES = 4096
SIZE_BYTES = 64 << 10
INTENT = IntentSettings(extent_bytes=8 << 10, hot_extents=4)
RESTART_AFTER_S = 0.3
NETWORK_DELAY_S = 0.0005

MODES: tuple[CrashMode, ...] = ("keep", "drop", "random", "torn")
VICTIMS = (("a",), ("b",), ("a", "b"))

KEYS = {"first": "a", "second": "b", "third": "b", "spare": "b"}
KEYS |= {f"{name}2": machine for name, machine in KEYS.items()}
"""Which machine has which volume; those of a second data set end in 2."""


class StoryOver(Exception):  # noqa: N818  (an event)
    """The power was lost: no further step is taken."""


@dataclass(frozen=True, slots=True)
class CrashAt:
    """Where power is lost, by whom, and what unflushed writes come to."""

    boundary: int
    mode: CrashMode
    victims: tuple[str, ...]

    def rng(self) -> Random:
        """What draws the fate of unflushed writes."""
        return Random(self.boundary)

    def __str__(self) -> str:
        return f"--at {self.boundary} --mode {self.mode} --victim {'+'.join(self.victims)}"


@dataclass(frozen=True)
class Setting:
    """What a scenario's world is made of."""

    local: bool = False
    """Whether there is a third volume and a local pair behind the remote one."""
    spare: bool = False
    """Whether the second has another local mirror."""
    group: bool = False
    """Whether there is a second data set, and a group of both."""
    mode: m.Mode = m.Mode.SYNC
    fence: m.Fence = m.Fence.NEVER
    paired: bool = True
    """Whether the pairs are in PAIR when the story begins."""
    extra: tuple[str, ...] = ()
    """Names of further volumes on 'b' that the story makes or deletes."""


@dataclass
class Outcome:
    """What became of a run."""

    boundaries: list[Boundary] = field(default_factory=list)
    crashes: list[CrashAt] = field(default_factory=list)
    """Those to try, in a run without one."""
    images: int = 0
    broke: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    digest: str = ""


class World:
    """One run. `story` is told this world; its steps are in `tests.sim.crashpoints.steps`."""

    def __init__(self, setting: Setting, crash: CrashAt | None) -> None:
        self.setting = setting
        self.crash = crash
        self.rng = Random(20)
        self.loop = VirtualLoop(self._uncaught)
        self.trace = Trace(self.loop)
        self.oracle = Oracle(self.trace)
        self.fabric = Fabric(Random(1), self.loop)
        self.fabric.calm = True
        self.fabric.delay_s = NETWORK_DELAY_S
        self.plans = self._plans()
        habits = Habits(delete=0, restore=0, rate_limit=0, overlap=False)
        self.operator = Operator(self.oracle, Random(2), self.plans, SIZE_BYTES, habits)
        self.judge = Judge(self)
        self.outcome = Outcome()
        self.counting = False
        self.over = False
        """The crash has happened; the story takes no further step."""
        self._last_write: tuple[float, str, str] | None = None
        self.power_lost = self.loop.create_future()
        self.working: list[asyncio.Future[None]] = []
        """What the story does beside its own course."""
        for index, name in enumerate(("a", "b")):
            self._make_machine(name, "ba"[index], Random(10 + index))
        ends = [end for plan in self.plans for end in (plan.p_volume, plan.s_volume)]
        for volume in dict.fromkeys(ends):
            archive = self.judge.archive_of(volume)
            self.oracle.volumes[KEYS[volume], volume] = Tracked(Archive(SIZE_BYTES, archive))
        for volume in setting.extra:
            archive = self.judge.archive_of(volume)
            self.oracle.volumes["b", volume] = Tracked(Archive(SIZE_BYTES, archive))
        self.groups = GroupBackups(self.operator)
        self.group_splits = GroupSplits(self.operator, self.groups)

    def _plans(self) -> list[PairPlan]:
        setting, remote, local = self.setting, m.PairKind.REMOTE, m.PairKind.LOCAL
        plans = [
            PairPlan("remote", remote, "a", "first", "b", "second", setting.mode, setting.fence)
        ]
        mirrors = {"local": "third"} if setting.local else {}
        mirrors |= {"undo": "spare"} if setting.spare else {}
        sync, never = m.Mode.SYNC, m.Fence.NEVER
        for name, volume in mirrors.items():
            plans.append(PairPlan(name, local, "b", "second", "b", volume, sync, never))
        if setting.group:
            plans += [
                replace(
                    plan,
                    name=f"{plan.name}2",
                    p_volume=f"{plan.p_volume}2",
                    s_volume=f"{plan.s_volume}2",
                )
                for plan in plans
            ]
        return plans

    def _make_machine(self, name: str, peer: str, rng: Random) -> None:
        data, meta = Faults(cold_read=0.2, slow_flush=0.0), Faults(cold_read=0.0, slow_flush=0.0)
        args = (INTENT, self.loop, self.fabric, self.oracle, rng, (data, meta))
        machine = Machine(name, [peer], *args)
        for attribute in ("disk", "meta"):
            plain = getattr(machine, attribute)
            counted = CountedDisk(
                plain.rng,
                plain.faults,
                self.loop,
                lambda what, file: self._reached(name, what, file),
            )
            counted.on_write, counted.on_flush_failed = plain.on_write, plain.on_flush_failed
            setattr(machine, attribute, counted)
        self.oracle.machines[name] = machine

    def _uncaught(self, message: str, error: BaseException | None) -> None:
        self.oracle.broken("UNCAUGHT", uncaught(message, error))

    # ------------------------------------------------------------ boundaries

    def _reached(self, machine: str, what: str, file: str) -> None:
        if not self.counting or self.over:
            return
        boundaries = self.outcome.boundaries
        place = (self.loop.time(), machine, file)
        if what == "flush begun" and place == self._last_write:
            # The write before it left everything as it is now: that was this very point.
            return
        self._last_write = place if what in ("write", "discard") else None
        boundary = Boundary(len(boundaries), machine, what, self._shown(machine, file))
        boundaries.append(boundary)
        if self.crash is None:
            self.trace.line(str(boundary))
            self.outcome.images += self.judge.paper(str(boundary), boundary.number)
            self.outcome.crashes += self._crashes(boundary.number)
        elif self.crash.boundary == boundary.number:
            self._lose_power(self.crash, boundary)

    def _crashes(self, number: int) -> list[CrashAt]:
        """The crashes to try here: each mode that leaves something else than those before."""
        crashes: list[CrashAt] = []
        for victims in VICTIMS:
            seen: set[bytes] = set()
            for mode in MODES:
                crash = CrashAt(number, mode, victims)
                left = self._left_by(crash)
                if left not in seen:
                    seen.add(left)
                    crashes.append(crash)
        return crashes

    def _left_by(self, crash: CrashAt) -> bytes:
        """What a crash makes of unflushed writes, as `Machine.crash` will draw it."""
        rng = crash.rng()
        digest = hashlib.sha256()
        for name in crash.victims:
            machine = self.oracle.machines[name]
            for disk in (machine.disk, machine.meta):
                for file in sorted(disk.files):
                    if disk.files[file].pending:
                        digest.update(disk.files[file].after_crash(rng, crash.mode))
        return digest.digest()

    def _shown(self, machine: str, file: str) -> str:
        """A file's name with the volume's or the pair's instead of the id."""
        key, dot, rest = file.partition(".")
        if not dot:
            return file
        node = getattr(self.oracle.machines[machine], "node", None)
        if node is not None and hasattr(node, "pairs"):
            for shelved in node.volumes.all():
                if shelved.record.id == key:
                    return f"{shelved.record.name}.{rest}"
            for owner in node.pairs.owners():
                if owner.record.id == key:
                    return f"{owner.record.name}.{rest}"
        return f"new.{rest}"

    def _lose_power(self, crash: CrashAt, boundary: Boundary) -> None:
        self.over = True
        self.trace.line(
            f"POWER LOST by {' and '.join(crash.victims)} at {boundary}, unflushed: {crash.mode}"
        )
        rng = crash.rng()
        self.judge.before_crash(crash)
        ghosts: list[Epoch] = []
        for name in crash.victims:
            machine = self.oracle.machines[name]
            if machine.epoch is not None and machine.epoch.alive:
                ghosts.append(machine.epoch)
            machine.crash(rng, crash.mode)
        for ghost in ghosts:
            # What the step that is going on still starts is taken away when it is over.
            self.loop.call_soon(self.loop.kill, ghost, context=WORLD)
        self.judge.after_crash()
        self.loop.call_soon(self.power_lost.set_result, None, context=WORLD)

    # ------------------------------------------------------------ the run

    def run(self, set_up: Story, story: Story) -> Outcome:
        """Live through it."""
        try:
            live(self.loop, self.oracle, lambda: self._whole(set_up, story))
        finally:
            self._forget()
        self.outcome.broke = [str(broken) for broken in self.oracle.broke]
        self.outcome.lines = self.trace.lines
        self.outcome.digest = self.trace.digest()
        return self.outcome

    def _forget(self) -> None:
        """Give back what is large now: a run's own references are circles."""
        for machine in self.oracle.machines.values():
            machine.disk.files.clear()
            machine.meta.files.clear()

    async def _whole(self, set_up: Story, story: Story) -> None:
        await set_up(self)
        self.trace.line("the story begins")
        self.counting = True
        telling = asyncio.ensure_future(self._tell(story))
        await asyncio.wait([telling, self.power_lost], return_when=asyncio.FIRST_COMPLETED)
        self.counting = False
        if not self.over and self.crash is not None:
            self.oracle.broken("SIMULATOR", f"boundary {self.crash.boundary} was not reached")
            return
        if self.over:
            await self._power_back()
        await telling
        self.fabric.refused_until_s.clear()
        for machine in self.oracle.machines.values():
            if not machine.up:
                await machine.start()
        for plan in self.plans:
            if plan.kind is m.PairKind.REMOTE:
                await self.operator.bring_home(plan)
        groups = self.groups if self.setting.group else None
        await Quiet(self.oracle, self.operator, [telling], groups).run()
        self.judge.at_rest()

    async def _tell(self, story: Story) -> None:
        try:
            await story(self)
        except StoryOver:
            self.trace.line("the story is over")
        for error in await asyncio.gather(*self.working, return_exceptions=True):
            if isinstance(error, Exception) and not isinstance(error, StoryOver):
                raise error

    async def _power_back(self) -> None:
        assert self.crash is not None
        await asyncio.sleep(RESTART_AFTER_S)
        self.judge.survivors()
        for name in self.crash.victims:
            machine = self.oracle.machines[name]
            if machine.epoch is None or not machine.epoch.alive:
                await machine.start()
        self.judge.restarted()


Story = Callable[[World], Awaitable[None]]
