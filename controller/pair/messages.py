"""What the two sides of a pair tell each other in the stream (docs/protocol.md).

Owns the control messages. A message that doesn't fit raises pydantic's ValidationError, which
ends the connection. Sides and commands travel by value; nothing refers to a clock.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from controller.api.messages import Name, PairState, Role
from controller.pair.record import Goal


class Message(BaseModel):
    """Base: small, frozen, and deaf to fields of later versions."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Report(Message):
    """First message of an epoch, from both sides: where I stand."""

    kind: Literal["report"] = "report"
    state: PairState
    goal: Goal
    current: str = Field(max_length=64)
    baseline: str = Field(max_length=64)
    history: list[Annotated[str, Field(max_length=64)]] = Field(max_length=16)
    consistent: bool
    dirty_bytes: int = Field(ge=0)
    size_bytes: int = Field(gt=0)
    in_use: str = Field(default="", max_length=300)
    """Why this side can't be the target of a copy now, or an empty text."""
    role: Role
    swaps: int = Field(ge=0)
    """How often the roles were exchanged: of two P-VOLs, the higher number is the one."""


class Prepare(Message):
    """P to S: become the target of a forward copy. Answered by bitmap frames and Prepared."""

    kind: Literal["prepare"] = "prepare"
    dirty_bytes: int = Field(ge=0)
    """My marks; with none on either side there is nothing to copy and nothing to endanger."""
    current: str = Field(max_length=64)
    """The generation both sides agree on from here: what S will be when the copy is done."""
    expected: str = Field(default="", max_length=64)
    """S's generation when the direction was decided; S refuses when it has moved on. Empty when
    the operator named the direction: then what S wrote is given up."""


class Prepared(Message):
    """S to P: no host writes here any more; my bits were sent before this."""

    kind: Literal["prepared"] = "prepared"
    dirty_bytes: int = Field(ge=0)


class Reverse(Message):
    """P to S: my bits were sent before this; copy back to me."""

    kind: Literal["reverse"] = "reverse"
    agreed: str = Field(max_length=64)
    """S's generation as P has noted it already; S refuses when it has moved on."""
    dirty_bytes: int = Field(ge=0)
    rate_limit_bytes_per_s: int | None


class Started(Message):
    """Source to target: the copy of so much begins."""

    kind: Literal["started"] = "started"
    union_bytes: int = Field(ge=0)
    discarded_bytes: int = Field(ge=0)


class Cleared(Message):
    """Source to target: both sides have flushed what the last copy flush covered."""

    kind: Literal["cleared"] = "cleared"


class Finish(Message):
    """Source to target: everything is copied and flushed; you are in sync."""

    kind: Literal["finish"] = "finish"


class Finished(Message):
    """Target to source: my side is in sync and says so on disk."""

    kind: Literal["finished"] = "finished"


class Split(Message):
    """P to S: everything before this belongs to the split, nothing after."""

    kind: Literal["split"] = "split"
    writable: bool
    label: str = Field(max_length=128)
    baseline: str = Field(max_length=64)


class SplitDone(Message):
    """S to P: split, on disk."""

    kind: Literal["split_done"] = "split_done"


class Whole(Message):
    """P to S, in a local pair: all that a quick split owed you is yours; be split."""

    kind: Literal["whole"] = "whole"
    writable: bool
    label: str = Field(max_length=128)


class Mark(Message):
    """P to S: split that local pair of yours at this point of the stream."""

    kind: Literal["mark"] = "mark"
    local_pair: Name
    label: str = Field(max_length=128)
    at: float = Field(default=0.0, ge=0)
    """When, for people."""
    number: int = Field(default=0, ge=0)
    """The backup's number."""
    quick: bool = False
    """The local pair may be in COPY: what differs is copied behind the split."""
    split_remote: bool = False
    """This pair is split at the same point: Split is the next message."""
    instant: str = Field(default="", max_length=64)
    """Not empty: other pairs are marked for the same backup. The local pair is split, and is no
    backup before all of that instant are kept as one."""


class Unmark(Message):
    """P to S: the marks of that instant did not reach all pairs; follow again."""

    kind: Literal["unmark"] = "unmark"
    local_pair: Name
    instant: str = Field(min_length=1, max_length=64)


class Marked(Message):
    """S to P: done, or why not."""

    kind: Literal["marked"] = "marked"
    error: str = Field(default="", max_length=500)
    code: str = Field(default="ok", max_length=40)
    next_step: str = Field(default="", max_length=500)


class TookOver(Message):
    """S to P: hosts may write here; keep yours out."""

    kind: Literal["took_over"] = "took_over"


class Swap(Message):
    """P to S: take my role. No write of a host is on its way, and none is let in here."""

    kind: Literal["swap"] = "swap"
    swaps: int = Field(ge=1)


class Swapped(Message):
    """S to P: I am the P-VOL, on disk. Answered by a report when the other has yielded."""

    kind: Literal["swapped"] = "swapped"


class Refused(Message):
    """Either way: the last Prepare, Reverse or Swap can't be."""

    kind: Literal["refused"] = "refused"
    reason: str = Field(max_length=500)


class Failed(Message):
    """Either way: my store failed; this pair is suspended on my side."""

    kind: Literal["failed"] = "failed"
    reason: str = Field(max_length=500)


class Delete(Message):
    """P to S: forget this pair."""

    kind: Literal["delete"] = "delete"


class Deleted(Message):
    """S to P: forgotten, on disk."""

    kind: Literal["deleted"] = "deleted"


class UnknownPair(Message):
    """The other controller has no such pair."""

    kind: Literal["unknown_pair"] = "unknown_pair"


PairMessage = (
    Report
    | Prepare
    | Prepared
    | Reverse
    | Started
    | Cleared
    | Finish
    | Finished
    | Split
    | SplitDone
    | Whole
    | Mark
    | Unmark
    | Marked
    | TookOver
    | Swap
    | Swapped
    | Refused
    | Failed
    | Delete
    | Deleted
    | UnknownPair
)

_ADAPTER: TypeAdapter[PairMessage] = TypeAdapter(
    Annotated[PairMessage, Field(discriminator="kind")]
)


def parse(message: dict[str, Any]) -> PairMessage:
    """The message in a control frame."""
    return _ADAPTER.validate_python(message)
