"""deploy/sim: run seeds of the simulator on all cores, tell what failed and how to see it again.

Owns the command line and the report. Must not know laws: a seed's result says
what broke. Ends with 1 when a seed fails or a planted bug is not found.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.sim.mutants import MUTANTS, Hunt, hunt
from tests.sim.run import Result, run_seed
from tests.sim.seeds import Totals, in_parallel, judged

TAIL_LINES = 40
PROGRESS_EVERY_S = 10.0
HUNT_SEEDS = 1000


def show_failure(result: Result, *, whole: bool) -> None:
    """The last events of a failed seed, and how to see all of them."""
    lines = result.lines if whole else result.lines[-TAIL_LINES:]
    print(f"\nseed {result.seed} FAILED: {result.broke[0]}")
    if len(lines) < len(result.lines):
        print(f"  ... {len(result.lines) - len(lines)} events before these")
    for line in lines:
        print(f"  {line}")
    print(f"replay: deploy/sim --seed {result.seed} --trace\n", flush=True)


def run_seeds(seeds: list[int], jobs: int, *, whole: bool) -> int:
    """Run many seeds; the exit code."""
    totals, failed = Totals(), list[Result]()
    began_s = told_s = time.monotonic()
    for result in in_parallel(judged, seeds, jobs):
        totals.add(result)
        if result.broke:
            failed.append(result)
            show_failure(result, whole=whole)
        now_s = time.monotonic()
        if now_s - told_s >= PROGRESS_EVERY_S:
            told_s = now_s
            print(f"{totals.seeds}/{len(seeds)}  {totals.text(now_s - began_s)}", flush=True)
    print(totals.text(time.monotonic() - began_s))
    for result in sorted(failed, key=lambda each: each.seed):
        print(f"FAILED seed {result.seed}: {result.broke[0]}")
    print(f"{len(failed)} of {totals.seeds} seeds failed" if failed else "no law was broken")
    mild = totals.too_mild()
    if mild:
        print(f"TOO MILD: {mild}")
    return 1 if failed or mild else 0


def run_one(seed: int, *, whole: bool) -> int:
    """Run one seed and show its trace; the exit code."""
    result = run_seed(seed)
    if whole or result.broke:
        lines = result.lines if whole else result.lines[-TAIL_LINES:]
        print("\n".join(lines))
    print(f"seed {seed}: {result.broke[0] if result.broke else 'no law was broken'}")
    print(f"trace {result.digest}")
    return 1 if result.broke else 0


def run_mutants(names: list[str], first: int, limit: int, jobs: int) -> int:
    """Plant each bug and count the seeds until it is found; the exit code."""
    chosen = [index for index, mutant in enumerate(MUTANTS) if not names or mutant.name in names]
    # The slow ones first, so that no process ends up with them alone.
    chosen.sort(key=lambda index: -MUTANTS[index].slow)
    began_s = time.monotonic()
    print(f"{'planted bug':<34} {'law':<6} {'seeds':>6}  found as")
    hunts: list[Hunt] = []
    tasks = [(index, first + index * limit, limit) for index in chosen]
    for found in in_parallel(hunt, tasks, jobs):
        hunts.append(found)
        seeds = str(found.seeds) if found.law else f">{found.seeds}"
        mutant = MUTANTS[found.index]
        how = f"{found.law}, seed {found.seed}" if found.law else "NOT FOUND"
        print(f"{mutant.name:<34} {mutant.law:<6} {seeds:>6}  {how}", flush=True)
    missed = [MUTANTS[each.index].name for each in hunts if not each.law]
    elapsed_s = time.monotonic() - began_s
    print(f"{len(hunts) - len(missed)} of {len(hunts)} planted bugs found in {elapsed_s:.0f} s")
    for name in missed:
        print(f"NOT FOUND: {name}")
    return 1 if missed else 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="deploy/sim", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--seeds", type=int, default=200, help="how many seeds to run (200)")
    add("--start", type=int, default=0, help="the first of them (0)")
    add("--seed", type=int, help="run this seed alone and show how it went")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    add("--trace", action="store_true", help="show every event, not the last ones only")
    add("--mutants", nargs="*", metavar="NAME", help="plant bugs, all or these, and find them")
    add("--limit", type=int, default=HUNT_SEEDS, help=f"seeds a planted bug ({HUNT_SEEDS})")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Do what was asked; the exit code."""
    asked = arguments(argv)
    if asked.mutants is not None:
        known = {mutant.name for mutant in MUTANTS}
        unknown = [name for name in asked.mutants if name not in known]
        if unknown:
            print(f"no such mutant: {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
            return 2
        return run_mutants(asked.mutants, asked.start, asked.limit, asked.jobs)
    if asked.seed is not None:
        return run_one(asked.seed, whole=asked.trace)
    seeds = list(range(asked.start, asked.start + asked.seeds))
    return run_seeds(seeds, asked.jobs, whole=asked.trace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
