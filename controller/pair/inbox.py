"""What stands in an owner's inbox beside commands and names of steps.

Owns the shapes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.link.channel import Channel
from controller.pair import messages as msg

if TYPE_CHECKING:
    from controller.pair.conversation import Reply


class SplitBegun:
    """A split whose instant has passed has to be made durable."""


@dataclass(frozen=True, slots=True)
class MarkBegun:
    """A mark is in the stream; the other side's answer is awaited."""

    mark: msg.Mark
    reply: Reply


@dataclass(frozen=True, slots=True)
class TakeBack:
    """A split of a group that did not reach all of its pairs is undone."""

    reason: str


class Unguard:
    """The source of a pair that the guard split is in sync again."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message, and the epoch it belongs to (law L9)."""

    message: msg.PairMessage
    channel: Channel | None
