"""The exhaustive crash points: a quick part of them, and that they can find a planted bug."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.crashpoints import __main__ as program
from tests.sim.crashpoints.runner import count, named, run_once
from tests.sim.crashpoints.scenarios import SCENARIOS
from tests.sim.crashpoints.world import VICTIMS, CrashAt
from tests.sim.mutants import MUTANTS, Mutant, behind, grouped, swapped

ROOT = Path(__file__).parents[2]


def traced(scenario: str, hash_seed: str) -> list[str]:
    """A run without a crash in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.crashpoints", "--scenario", scenario, "--trace"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def some_failure(scenario: str) -> tuple[CrashAt | None, str]:
    """A run of a scenario that breaks something: its crash, if it has one, and what."""
    tally, found = count(scenario)
    if tally.failures:
        return None, tally.failures[0].broke
    # From the end: by then most of what can be lost is there.
    for crash in reversed(found):
        broke = run_once(named(scenario), crash).broke
        if broke:
            return crash, broke[0]
    return None, ""


def test_there_are_scenarios_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS) >= 20


def test_no_law_is_broken_at_any_boundary_of_two_scenarios(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = program.main(["--scenario", "hot-write", "split-again", "--jobs", "1"])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert shown.rstrip().endswith("no law was broken")


@pytest.mark.parametrize("scenario", [scenario.name for scenario in SCENARIOS])
def test_every_scenario_outlives_a_loss_at_its_first_boundary(scenario: str) -> None:
    """A judge that one family of stories needs must not mind what another leaves."""
    for victims in VICTIMS:
        assert not run_once(named(scenario), CrashAt(0, "keep", victims)).broke


def test_boundaries_are_the_same_each_time_whatever_the_hash_seed() -> None:
    one, two = (traced("cold-write", hash_seed) for hash_seed in ("1", "4711"))
    assert one == two
    assert sum("  boundary " in line for line in one) >= 20


def test_a_crash_is_where_the_count_says_it_is() -> None:
    tally, crashes = count("cold-write")
    whole = run_once(named("cold-write"), None)
    assert len(whole.boundaries) == tally.boundaries
    crash = crashes[len(crashes) // 2]
    cut = run_once(named("cold-write"), crash)
    assert cut.boundaries == whole.boundaries[: crash.boundary + 1]
    assert any(f"POWER LOST by {crash.victims[0]}" in line for line in cut.lines)


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        ("extent leaves without a flush", "cold-write"),
        ("hot extents read as clean", "cold-write"),
        ("split not flushed", "split"),
        ("FUA not flushed", "fua-write"),
    ],
)
def test_a_planted_bug_is_found(name: str, scenario: str) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    with mutant.planted():
        crash, broke = some_failure(scenario)
    assert broke, f"{name} was not found in '{scenario}'"
    assert not run_once(named(scenario), crash).broke


@pytest.mark.parametrize(
    ("mutant", "scenario"),
    [
        (swapped.OFFERED, "swap-under-writes"),
        (swapped.TOLD, "swap"),
        (swapped.OPENED, "swap-cut"),
        (swapped.NUMBER, "swap-kept-in-vain"),
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_bug_in_the_exchange_of_roles_is_found(mutant: Mutant, scenario: str) -> None:
    with mutant.planted():
        crash, broke = some_failure(scenario)
    assert broke, f"{mutant.name} was not found in '{scenario}'"
    assert not run_once(named(scenario), crash).broke


def test_a_group_that_is_brought_back_in_part_is_found() -> None:
    with grouped.TOGETHER.planted():
        crash, broke = some_failure("group-resync-refused")
    assert (crash, broke[:4]) == (None, "L11:")


def test_a_block_let_go_before_it_is_written_down_is_found() -> None:
    """Where power goes between a write to what a quick split owed and the next save."""
    with behind.LET_GO.planted():
        # The bug saves less, so that there are other boundaries.
        _, crashes = count("quick-split")
        torn = [crash for crash in crashes if crash.mode == "torn" and "b" in crash.victims]
        found = (crash for crash in reversed(torn) if run_once(named("quick-split"), crash).broke)
        crash = next(found, None)
    assert crash is not None
    assert not run_once(named("quick-split"), crash).broke


def test_a_failure_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "data before intent")
    with mutant.planted():
        code = program.main(["--scenario", "split-again", "first-write", "--jobs", "1"])
    shown = capsys.readouterr().out
    assert code == 1
    assert "replay: deploy/sim --crash-points --scenario first-write --trace" in shown


def test_a_crash_can_be_replayed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--scenario", "split", "--at", "7", "--mode", "torn", "--victim", "a+b"]
    assert program.main(asked) == 0
    shown = capsys.readouterr().out
    assert "POWER LOST by a and b at boundary 7" in shown
    assert "unflushed: torn" in shown
