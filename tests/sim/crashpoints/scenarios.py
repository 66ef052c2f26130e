"""All scenarios, in the order in which they are told."""

from __future__ import annotations

from tests.sim.crashpoints import copies, lives, splits, swaps, writes
from tests.sim.crashpoints.scenario import Scenario

SCENARIOS: list[Scenario] = [
    *writes.SCENARIOS,
    *splits.SCENARIOS,
    *copies.SCENARIOS,
    *lives.SCENARIOS,
    *swaps.SCENARIOS,
]
