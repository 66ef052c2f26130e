"""The quick set of seeds, that a seed replays, and that the simulator can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import __main__ as program
from tests.sim.mutants import MUTANTS, Mutant, hunt
from tests.sim.run import run_seed
from tests.sim.seeds import Totals

ROOT = Path(__file__).parents[2]
SEEDS = 200


def run(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """deploy/sim in this environment."""
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_no_law_is_broken_by_the_quick_set() -> None:
    done = run("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SEEDS} seeds in" in done.stdout
    assert done.stdout.rstrip().endswith("no law was broken")


@pytest.mark.parametrize("seed", [3, 4, 39])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    one, two = (run("--seed", str(seed), "--trace", hash_seed=each) for each in ("1", "4711"))
    assert one.stdout == two.stdout
    assert one.stdout.splitlines()[-1].startswith("trace ")


def test_other_seeds_give_other_traces() -> None:
    assert run_seed(5).digest != run_seed(6).digest


@pytest.mark.parametrize(
    "name", ["hot extents read as clean", "chain law dropped", "lost write not marked"]
)
def test_a_planted_bug_is_found(name: str) -> None:
    index = next(index for index, mutant in enumerate(MUTANTS) if mutant.name == name)
    found = hunt((index, 0, 20))
    assert found.law, f"{name}: not found in {found.seeds} seeds"


def test_a_long_run_that_sees_too_little_fails() -> None:
    enough = Totals(seeds=5000, crashes=20_000, cuts=8_000)
    assert enough.too_mild() == ""
    assert "7999 cuts" in Totals(seeds=5000, crashes=20_000, cuts=7_999).too_mild()
    assert "19999 crashes" in Totals(seeds=5000, crashes=19_999, cuts=8_000).too_mild()
    assert Totals(seeds=200).too_mild() == "", "a short run proves little, and may"


def test_a_failed_seed_shows_its_trace_and_how_to_replay_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "hot extents read as clean")
    with mutant.planted():
        code = program.main(["--seeds", "3", "--jobs", "1"])
    shown = capsys.readouterr().out
    assert code == 1
    assert "BROKEN " in shown
    assert "replay: deploy/sim --seed " in shown


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_code(mutant: Mutant) -> None:
    patches = mutant.patches()
    before = [getattr(where, name) for where, name, _ in patches]
    with mutant.planted():
        assert [getattr(where, name) for where, name, _ in patches] != before
    assert [getattr(where, name) for where, name, _ in patches] == before
