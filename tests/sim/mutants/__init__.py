"""Planted bugs, each of which breaks a law on purpose, and the hunt that has to find it."""

from __future__ import annotations

from tests.sim.mutants.hunt import Hunt, hunt
from tests.sim.mutants.plant import Mutant
from tests.sim.mutants.planted import MUTANTS

__all__ = ["MUTANTS", "Hunt", "Mutant", "hunt"]
