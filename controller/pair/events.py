"""What a side tells its owner.

Owns the contract only.
"""

from __future__ import annotations

from typing import Protocol

from controller.link.channel import Channel
from controller.pair.messages import PairMessage


class SideEvents(Protocol):
    """What the owner is told by the data path."""

    def message(self, message: PairMessage) -> None:
        """A control message, at its place in the stream."""

    def opened(self, channel: Channel) -> None:
        """A new epoch."""

    def lost(self, reason: str) -> None:
        """The epoch has ended."""

    def store_failed(self, error: str) -> None:
        """This side's store refused something that the mirror depends on."""
