"""The contract of `pair.verify` and `pair.resolve`: are both sides equal, and which one is kept.

Owns the shape only.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import Field

from controller.api.base import Bytes, Info, Name, Params, Progress


class PairVerify(Params):
    """Compare both sides of a pair in PAIR, while hosts go on. A running one goes on."""

    name: Name
    repair: bool = False
    """Copy what differs from the P-VOL to the S-VOL afterwards."""
    rate_limit_bytes_per_s: Annotated[int, Field(ge=1 << 20)] | None = None


class PairResolve(Params):
    """End a split-brain: give up what one side wrote since they parted."""

    name: Name
    discard: Name
    """The node whose writes are given up; for a local pair, the volume."""
    force: bool = False
    """Discard the P-VOL's writes although an initiator is logged in to it (law L12)."""


class VerifyState(enum.StrEnum):
    """How far a verify is."""

    RUNNING = "running"
    REPAIRING = "repairing"
    """Compared; what differs is being copied."""
    ENDED = "ended"
    STOPPED = "stopped"
    """Not all was compared; `reason` says why."""


class ByteRange(Info):
    """A part of a volume."""

    offset_bytes: Bytes
    length_bytes: Bytes


class VerifyInfo(Info):
    """What a verify has found."""

    state: VerifyState
    reason: str = ""
    elapsed_s: float
    compared_bytes: Bytes
    differing_bytes: Bytes
    busy_bytes: Bytes = 0
    """Blocks that hosts wrote each time they were looked at: there was no telling."""
    ranges: list[ByteRange]
    """What differs, in order; at most 256. `range_count` has their number, up to 4,096."""
    range_count: Bytes
    repaired: bool = False
    progress: Progress | None = None
