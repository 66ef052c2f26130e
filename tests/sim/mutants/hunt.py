"""The hunt for a planted bug: seeds, until one fails that passes without it.

Owns the verdict. Must not know what a mutant does.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.sim.mutants.plant import Mutant
from tests.sim.mutants.planted import MUTANTS
from tests.sim.run import run_seed
from tests.sim.seeds import judged


@dataclass(frozen=True)
class Hunt:
    """How the hunt for a mutant ended: `law` is empty when it was not found."""

    index: int
    seeds: int
    seed: int = -1
    law: str = ""


def hunt(task: tuple[int, int, int]) -> Hunt:
    """Run seeds with a mutant planted until one fails that passes without it.

    The task is the mutant's index, the first seed, and how many seeds to try.
    """
    index, first, limit = task
    for count, seed in enumerate(range(first, first + limit), 1):
        law = law_broken_by(MUTANTS[index], seed)
        if law and not judged(seed).broke:
            return Hunt(index, count, seed, law)
    return Hunt(index, limit)


def law_broken_by(mutant: Mutant, seed: int) -> str:
    """The law that a seed breaks with the mutant planted, or an empty text."""
    with mutant.planted():
        try:
            return run_seed(seed).law
        except Exception as error:  # noqa: BLE001  (a planted bug may break anything)
            return type(error).__name__
