"""The contract of consistency groups: several pairs that are split at one instant.

Owns the shape only.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from controller.api.base import Bytes, Direction, Info, Name, PairState, Params

MAX_GROUP_PAIRS = 64


class GroupCreate(Params):
    """Name a group. Its pairs have their P-VOLs on the controller that is asked, and one peer."""

    name: Name
    pairs: Annotated[list[Name], Field(min_length=1, max_length=MAX_GROUP_PAIRS)]


class GroupSplit(Params):
    """Split every pair of a group at one instant, or none."""

    name: Name
    writable: bool = False
    """Let hosts write to the S-VOLs."""
    label: str = Field(default="", max_length=128)
    at: float = Field(default=0.0, ge=0)
    """When, by the clock of whoever asks; Unix seconds, for people."""
    deadline_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """If not all sides have confirmed by then, the split is taken back."""


class LocalMark(Params):
    """Which local pair is split behind one remote pair of a group."""

    remote_pair: Name
    local_pair: Name
    number: Annotated[int, Field(ge=0, le=1 << 53)] = 0
    """The backup's number in its data set."""


class GroupMark(Params):
    """Split the local pairs behind all pairs of a group at one instant, or none.

    The remote pairs go on, or are split as well. What is split is no backup yet: `backup.settle`
    keeps it, asked of the secondary. Where nobody does, it follows again when the link was away.
    """

    name: Name
    marks: Annotated[list[LocalMark], Field(min_length=1, max_length=MAX_GROUP_PAIRS)]
    """One a pair of the group."""
    instant: Annotated[str, Field(min_length=1, max_length=64)]
    """Chosen by whoever asks, never twice."""
    label: str = Field(default="", max_length=128)
    split_remote: bool = False
    at: float = Field(default=0.0, ge=0)
    deadline_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """If not all sides have confirmed by then, all follow again."""


class GroupResync(Params):
    """Make both sides of every pair of a group equal again. All begin, or none does."""

    name: Name
    direction: Direction | None = None
    force: bool = False
    """Reverse only: overwrite P-VOLs although initiators are logged in (law L12)."""
    deadline_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """If not all sides have said by then where they stand, none begins."""


class GroupInfo(Info):
    """A group, and how its pairs stand."""

    name: Name
    node: Name
    pairs: list[Name]
    states: dict[Name, PairState]
    """By pair; SMPL where one is gone."""
    dirty_bytes: Bytes = 0
    """Blocks marked in all of its pairs, on this side."""


class GroupList(Info):
    """Answer of `group.list`."""

    groups: list[GroupInfo]
