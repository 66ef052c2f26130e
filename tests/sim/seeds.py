"""Many seeds at once: run each in some process, and add up what they went through.

Owns the processes and the sums. Its own module because a spawned process can't import the
program's main one. A seed whose run ends with an exception has failed.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.sim.run import Result, run_seed

LONG_RUN_SEEDS = 5000
CRASHES_A_SEED = 4.0
CUTS_A_SEED = 1.6
"""What a run of that length has to go through: 20,000 crashes and 8,000 cuts."""

_Task = TypeVar("_Task")
_Outcome = TypeVar("_Outcome")


@dataclass
class Totals:
    """What all seeds together went through."""

    seeds: int = 0
    crashes: int = 0
    cuts: int = 0
    commands: int = 0
    writes: int = 0
    virtual_s: float = 0.0

    def add(self, result: Result) -> None:
        """Count a seed in."""
        self.seeds += 1
        self.crashes += result.crashes
        self.cuts += result.cuts
        self.commands += result.commands
        self.writes += result.writes
        self.virtual_s += result.virtual_s

    def too_mild(self) -> str:
        """What a long run has seen too little of to prove what it should; empty if nothing."""
        if self.seeds < LONG_RUN_SEEDS:
            return ""
        per_seed = {"crashes": CRASHES_A_SEED, "cuts": CUTS_A_SEED}
        seen = {"crashes": self.crashes, "cuts": self.cuts}
        return ", ".join(
            f"{seen[what]} {what}, fewer than {floor:.1f} a seed"
            for what, floor in per_seed.items()
            if seen[what] < floor * self.seeds
        )

    def text(self, elapsed_s: float) -> str:
        """One line."""
        return (
            f"{self.seeds} seeds in {elapsed_s:.0f} s ({self.seeds / max(elapsed_s, 1e-9):.2f} "
            f"seeds/s): {self.crashes} crashes, {self.cuts} cuts, {self.commands} commands, "
            f"{self.writes} writes, {self.virtual_s / 60:.0f} virtual minutes"
        )


def judged(seed: int) -> Result:
    """Run a seed; an exception that leaves the simulator is a failure of that seed."""
    try:
        result = run_seed(seed)
    except Exception as error:  # noqa: BLE001  (shown with the seed, and it fails the run)
        text = traceback.format_exc()
        return Result(seed, broke=[f"SIMULATOR: {error!r}"], law="SIMULATOR", lines=[text])
    if not result.broke:
        result.lines = []
    return result


def in_parallel(
    run: Callable[[_Task], _Outcome], tasks: Sequence[_Task], jobs: int
) -> Iterator[_Outcome]:
    """The outcome of each task as it comes, from this many processes."""
    if jobs <= 1 or len(tasks) <= 1:
        yield from map(run, tasks)
        return
    # Spawned, so that no worker inherits threads or an event loop.
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(tasks))) as pool:
        yield from pool.imap_unordered(run, tasks)
