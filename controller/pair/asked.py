"""A command to a pair, with its parameters, as it reaches the owner.

Owns the shape only; the state table says what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.messages import Direction
from controller.pair.table import Command


@dataclass(frozen=True, slots=True)
class Asked:
    """A command with its parameters."""

    command: Command
    direction: Direction | None = None
    full: bool = False
    force: bool = False
    label: str = ""
    at: float = 0.0
    """When the split was asked for, for people."""
    number: int = 0
    """The number of the backup that a split makes."""
    writable: bool = False
    expect_generation: str | None = None
    rate_limit_bytes_per_s: int | None = None
    resolve: bool = False
    """Only a split-brain is to be ended, in the direction given."""
    repair: bool = False
