"""The list of planted bugs."""

from __future__ import annotations

from tests.sim.mutants import behind, copied, grouped, mirrored, recorded, served, swapped
from tests.sim.mutants.plant import Mutant

MUTANTS: list[Mutant] = [
    *recorded.MUTANTS,
    *copied.MUTANTS,
    *mirrored.MUTANTS,
    *served.MUTANTS,
    *behind.MUTANTS,
    *grouped.MUTANTS,
    *swapped.MUTANTS,
]
