"""Every boundary of a scenario, every mode, every victim: counted once, then crashed one by one.

Owns the order of the runs and the sums. A scenario is run once without a crash to count its
boundaries and to judge crash images on paper; each crash is a run of its own from the start.
Modes that leave the very same bytes on the same machines are one crash.
"""

from __future__ import annotations

import ctypes
import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sim.crashpoints.scenario import Scenario
from tests.sim.crashpoints.scenarios import SCENARIOS
from tests.sim.crashpoints.steps import Steps, set_up
from tests.sim.crashpoints.world import CrashAt, Outcome, World
from tests.sim.seeds import in_parallel

CHUNK_RUNS = 40
"""Runs that a process does before it tells."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""


def named(name: str) -> Scenario:
    """A scenario; KeyError when there is none of that name."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]


def run_once(scenario: Scenario, crash: CrashAt | None) -> Outcome:
    """One run. An exception that leaves the simulator is a failure of that run."""
    world = World(scenario.setting, crash)

    async def before(_world: World) -> None:
        await set_up(world)
        if scenario.before is not None:
            await scenario.before(Steps(world))
            await Steps(world).settle()

    async def story(_world: World) -> None:
        await scenario.story(Steps(world))

    try:
        return world.run(before, story)
    except Exception as error:  # noqa: BLE001  (shown with the run, and it fails)
        world.outcome.broke.append(f"SIMULATOR: {type(error).__name__}: {error}")
        world.outcome.lines = world.trace.lines
        return world.outcome


@dataclass(frozen=True)
class Failure:
    """A run that broke a law."""

    scenario: str
    crash: CrashAt | None
    broke: str

    def replay(self) -> str:
        """The command that shows it again."""
        at = f" {self.crash}" if self.crash is not None else " --trace"
        return f"deploy/sim --crash-points --scenario {self.scenario}{at}"


@dataclass
class Tally:
    """What a scenario, or a part of one, went through."""

    scenario: str
    boundaries: int = 0
    images: int = 0
    crashes: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count a part in."""
        self.boundaries += other.boundaries
        self.images += other.images
        self.crashes += other.crashes
        self.failures += other.failures


def count(name: str) -> tuple[Tally, list[CrashAt]]:
    """Run a scenario without a crash; the crashes there are to try."""
    outcome = run_once(named(name), None)
    tally = Tally(name, len(outcome.boundaries), outcome.images)
    if outcome.broke:
        tally.failures.append(Failure(name, None, outcome.broke[0]))
    return tally, outcome.crashes


def _keep_memory() -> None:
    """Let the allocator keep what a run gives back: fetching 30 MB anew takes as long as a run."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def crash_each(task: tuple[str, list[CrashAt]]) -> Tally:
    """Carry out some crashes of a scenario."""
    name, chosen = task
    tally = Tally(name)
    scenario = named(name)
    _keep_memory()
    gc.freeze()
    with warnings.catch_warnings():
        # A coroutine that the power went from under is no mistake of anybody.
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
        for crash in chosen:
            outcome = run_once(scenario, crash)
            tally.crashes += 1
            tally.images += 1
            if outcome.broke:
                tally.failures.append(Failure(name, crash, outcome.broke[0]))
            # Nothing is collected while a run lasts, and each leaves megabytes behind.
            gc.collect()
    gc.unfreeze()
    return tally


def run_all(names: list[str], jobs: int) -> Iterator[Tally]:
    """Each scenario's sum, as soon as it is complete."""
    tallies: dict[str, Tally] = {}
    left: dict[str, int] = {}
    tasks: list[tuple[str, list[CrashAt]]] = []
    for tally, found in in_parallel(count, names, jobs):
        tallies[tally.scenario] = tally
        parts = [found[at : at + CHUNK_RUNS] for at in range(0, len(found), CHUNK_RUNS)]
        tasks += [(tally.scenario, part) for part in parts]
        left[tally.scenario] = len(parts)
        if not parts:
            yield tally
    for part in in_parallel(crash_each, tasks, jobs):
        name = part.scenario
        tallies[name].add(part)
        left[name] -= 1
        if not left[name]:
            yield tallies[name]
