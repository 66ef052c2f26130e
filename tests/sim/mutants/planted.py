"""The list of planted bugs."""

from __future__ import annotations

from tests.sim.mutants import behind, copied, grouped, mirrored, recorded, served
from tests.sim.mutants.plant import Mutant

MUTANTS: list[Mutant] = [
    *recorded.MUTANTS,
    *copied.MUTANTS,
    *mirrored.MUTANTS,
    *served.MUTANTS,
    *behind.MUTANTS,
    *grouped.MUTANTS,
]
