"""What stands in an owner's inbox beside commands and names of steps.

Owns the shapes only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.api.errors import RejectedError
from controller.link.channel import Channel
from controller.pair import messages as msg
from controller.pair.asked import Asked

if TYPE_CHECKING:
    from controller.pair.conversation import Reply


@dataclass(frozen=True, slots=True)
class MarkBegun:
    """A mark is in the stream; the other side's answer is awaited."""

    mark: msg.Mark
    reply: Reply


@dataclass(frozen=True, slots=True)
class TakeBack:
    """A split of a group that did not reach all of its pairs is undone."""

    reason: str


class Gate:
    """Where the pairs of a group wait for each other: all of them begin, or none does."""

    def __init__(self) -> None:
        self._decided = asyncio.Event()
        self._refusal: RejectedError | None = None

    def open(self) -> None:
        """All begin."""
        self._decided.set()

    def shut(self, refusal: RejectedError) -> None:
        """None begins, and who comes later doesn't either."""
        self._refusal = refusal
        self._decided.set()

    def check(self) -> None:
        """RejectedError when it is shut."""
        if self._refusal is not None:
            refusal = self._refusal
            raise RejectedError(refusal.code, refusal.message, refusal.next_step)

    async def passed(self) -> None:
        """Wait until it is open; RejectedError when it is shut."""
        await self._decided.wait()
        self.check()


@dataclass(frozen=True, slots=True)
class Together:
    """A resync of one pair of a group."""

    asked: Asked
    weighed: asyncio.Future[Channel | None]
    """Done when nothing stands in its way; the epoch in which that is so, None where there is
    nothing to begin."""
    gate: Gate


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message, and the epoch it belongs to (law L9)."""

    message: msg.PairMessage
    channel: Channel | None
