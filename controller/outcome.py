"""How a command ended that was not rejected.

Owns the shape only.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api import messages as m
from controller.api.codes import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command."""

    verdict: Verdict
    message: str
    result: m.Info | None
    """What it concerns now, as its verb says; None where that isn't there."""


def done(message: str, result: m.Info) -> Outcome:
    """It was carried out."""
    return Outcome(Verdict.ACCEPTED, message, result)


def no_op(message: str, result: m.Info | None) -> Outcome:
    """There was nothing to do."""
    return Outcome(Verdict.NO_OP, message, result)
