"""deploy/sim --crash-points: lose power at every write and flush of every scenario.

Owns the command line and the report. Ends with 1 when a law was broken, and says how to see
that run again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.sim.crashpoints.runner import Failure, Tally, named, run_all, run_once
from tests.sim.crashpoints.scenarios import SCENARIOS
from tests.sim.crashpoints.world import MODES, CrashAt

SHOWN_FAILURES = 5


def show(tally: Tally) -> None:
    """One line a scenario, and its first failures."""
    print(
        f"{tally.scenario:<22} {tally.boundaries:>5} boundaries {tally.crashes:>6} crashes "
        f"{tally.images:>7} crash images {len(tally.failures):>4} failures",
        flush=True,
    )
    failures = sorted(tally.failures, key=_where)
    for failure in failures[:SHOWN_FAILURES]:
        print(f"  FAILED {failure.broke}\n  replay: {failure.replay()}", flush=True)
    if len(failures) > SHOWN_FAILURES:
        print(f"  ... and {len(failures) - SHOWN_FAILURES} more", flush=True)


def _where(failure: Failure) -> tuple[int, str]:
    crash = failure.crash
    return (-1, "") if crash is None else (crash.boundary, str(crash))


def run_scenarios(names: list[str], jobs: int) -> int:
    """Run scenarios whole; the exit code."""
    began_s = time.monotonic()
    total = Tally("total")
    for tally in run_all(names, jobs):
        show(tally)
        total.add(tally)
    print(
        f"{len(names)} scenarios, {total.boundaries} boundaries, {total.crashes} crashes, "
        f"{total.images} crash images in {time.monotonic() - began_s:.0f} s: "
        + (f"{len(total.failures)} FAILED" if total.failures else "no law was broken")
    )
    return 1 if total.failures else 0


def run_one(name: str, crash: CrashAt | None) -> int:
    """Run one crash, or none, and show how it went; the exit code."""
    outcome = run_once(named(name), crash)
    print("\n".join(outcome.lines))
    verdict = outcome.broke[0] if outcome.broke else "no law was broken"
    print(f"{name}, {len(outcome.boundaries)} boundaries: {verdict}")
    print(f"trace {outcome.digest}")
    return 1 if outcome.broke else 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deploy/sim --crash-points", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--scenario", nargs="*", metavar="NAME", help="these and no others")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    add("--list", action="store_true", help="show what scenarios there are")
    add("--at", type=int, metavar="N", help="lose power at this boundary alone, with its trace")
    add("--mode", choices=MODES, default="drop", help="what unflushed writes come to (drop)")
    add("--victim", choices=("a", "b", "a+b"), default="a", help="who loses power (a)")
    add("--trace", action="store_true", help="no crash: show the run and its boundaries")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Do what was asked; the exit code."""
    asked = arguments(argv)
    if asked.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:<22} {scenario.about}")
        return 0
    known = [scenario.name for scenario in SCENARIOS]
    names = asked.scenario or known
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such scenario: {', '.join(unknown)}; --list shows what there is")
        return 2
    if asked.at is not None or asked.trace:
        if len(names) != 1:
            print("--at and --trace need one --scenario")
            return 2
        at = asked.at
        victims = tuple(asked.victim.split("+"))
        return run_one(names[0], None if at is None else CrashAt(at, asked.mode, victims))
    return run_scenarios(names, asked.jobs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
