"""What every message of the contract is made of.

Owns the two bases and the small types. Must import pydantic and the standard library only.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from controller.api.topics import NAME_PATTERN

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Bytes = Annotated[int, Field(ge=0)]


class PairState(enum.StrEnum):
    """The trade's pair states, as each side shows its own."""

    SMPL = "SMPL"
    COPY = "COPY"
    PAIR = "PAIR"
    PSUS = "PSUS"
    PSUE = "PSUE"
    SSUS = "SSUS"
    SSWS = "SSWS"
    RCPY = "RCPY"


class Direction(enum.StrEnum):
    """Which way a resync copies."""

    FORWARD = "forward"
    """P-VOL to S-VOL."""
    REVERSE = "reverse"
    """S-VOL to P-VOL."""


class Params(BaseModel):
    """Base of what a caller sends: strict about unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Info(BaseModel):
    """Base of what a node answers: lenient about unknown fields."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Progress(Info):
    """How far a copy has come. It always ends: `left_bytes` falls to 0."""

    done_bytes: Bytes
    left_bytes: Bytes
    rate_bytes_per_s: float
    eta_s: float | None
    """None while no rate is known."""
