"""The two protocols that meet at a link: a pair's way out, and its way in.

Owns the contract between a pair's side and whatever carries it to the other side: the TCP link
or, for a local pair, a direct call. Frames of one channel arrive in the order they were sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Control = dict[str, Any]
Applied = Callable[[str], None]
"""Called by the receiver when a frame has taken effect; a non-empty text says why it has not."""


class Ticket(Protocol):
    """Somebody who wants to know what became of a frame."""

    def acked(self) -> None:
        """The other side has applied it (for a flush: it is durable there)."""

    def lost(self) -> None:
        """Unknown for ever: the channel closed first, or the other side refused it."""


class Channel(Protocol):
    """One pair's place in the ordered stream to the other side."""

    @property
    def alive(self) -> bool:
        """Whether anything sent now can still arrive."""

    @property
    def backlog_bytes(self) -> int:
        """Data sent and not yet acknowledged, of all pairs that share the stream."""

    def write(self, offset_bytes: int, data: memoryview, ticket: Ticket, *, copy: bool) -> None:
        """Send data; `data` must stay as it is until the ticket ends, unless copied here."""

    def discard(self, offset_bytes: int, length_bytes: int, ticket: Ticket, *, copy: bool) -> None:
        """Send a discard of any length."""

    def flush(self, ticket: Ticket, *, copy: bool) -> None:
        """Ask for everything sent before to be made durable."""

    def control(self, message: Control) -> None:
        """Send a message at this point of the stream."""

    def bitmap(self, payload: bytes) -> None:
        """Send a part of the bitmap."""

    def forget(self) -> None:
        """The other side refuses this pair's frames: whatever is on the way is lost."""


class Receiver(Protocol):
    """A pair's side as the stream sees it. Called in stream order, on the loop."""

    def on_write(
        self, offset_bytes: int, data: memoryview, applied: Applied, *, copy: bool
    ) -> None:
        """Data arrived; `data` is valid during the call only."""

    def on_discard(
        self, offset_bytes: int, length_bytes: int, applied: Applied, *, copy: bool
    ) -> None:
        """A discard arrived."""

    def on_flush(self, applied: Applied, *, copy: bool) -> None:
        """Make everything that arrived before durable."""

    def on_control(self, message: Control) -> None:
        """A message arrived."""

    def on_bitmap(self, payload: bytes | memoryview) -> None:
        """A part of the other side's bitmap arrived."""

    def on_open(self, channel: Channel) -> None:
        """The other side can be reached through `channel`, a new epoch."""

    def on_lost(self, reason: str) -> None:
        """The channel is gone; nothing of its epoch has an effect any more (law L9)."""

    def count_wire(self, wire_bytes: int) -> None:
        """So many bytes of this pair crossed the wire, either way."""
