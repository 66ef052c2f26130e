"""The two protocols that meet at a link: a pair's way out, and its way in.

Owns the contract between a pair's side and whatever carries it to the other side: the TCP link
or, for a local pair, a direct call. Frames of one channel arrive in the order they were sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from controller.link.turns import Turns

Control = dict[str, Any]
Applied = Callable[[str], None]
"""Called by the receiver when a frame has taken effect; a non-empty text says why it has not."""


class Ticket(Protocol):
    """Somebody who wants to know what became of a frame."""

    def acked(self) -> None:
        """The other side has applied it (for a flush: it is durable there)."""

    def lost(self) -> None:
        """Unknown for ever: the channel closed first, or the other side refused it."""


class Inquiry(Protocol):
    """Somebody who wants to know which blocks differ."""

    def compared(self, differing: int | None) -> None:
        """Bit n is block n of the range; None when the other side couldn't tell."""

    def lost(self) -> None:
        """The channel closed first."""


Compared = Callable[[int | None], None]
"""Called by the receiver with the blocks that differ, or None when it couldn't tell."""


class Channel(Protocol):
    """One pair's place in the ordered stream to the other side."""

    @property
    def alive(self) -> bool:
        """Whether anything sent now can still arrive."""

    @property
    def backlog_bytes(self) -> int:
        """Data sent and not yet acknowledged, of all pairs that share the stream."""

    @property
    def turns(self) -> Turns:
        """Where flushes of the copies that come this way wait for one another."""

    def write(self, offset_bytes: int, data: memoryview, ticket: Ticket, *, copy: bool) -> None:
        """Send data; `data` must stay as it is until the ticket ends, unless copied here."""

    def discard(self, offset_bytes: int, length_bytes: int, ticket: Ticket, *, copy: bool) -> None:
        """Send a discard of any length."""

    def flush(self, ticket: Ticket, *, copy: bool) -> None:
        """Ask for everything sent before to be made durable."""

    def control(self, message: Control) -> None:
        """Send a message at this point of the stream."""

    def bitmap(self, payload: bytes, *, doubt: bool = False) -> None:
        """Send a part of the bitmap, or of what is in it out of doubt only."""

    def intent(self, ranges: list[tuple[int, int]]) -> None:
        """Tell ahead what will be written: offsets and lengths in bytes."""

    def compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, inquiry: Inquiry, *, copy: bool
    ) -> None:
        """Ask which blocks differ from these digests, or from a hole where there are none."""

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

    def on_bitmap(self, payload: bytes | memoryview, *, doubt: bool) -> None:
        """A part of the other side's bitmap arrived."""

    def on_intent(self, ranges: list[tuple[int, int]]) -> None:
        """These ranges will be written soon; a hint, and nothing depends on it."""

    def on_compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, answer: Compared, *, copy: bool
    ) -> None:
        """The other side wants to know which blocks differ here, at this point of the stream."""

    def on_open(self, channel: Channel) -> None:
        """The other side can be reached through `channel`, a new epoch."""

    def on_lost(self, reason: str) -> None:
        """The channel is gone; nothing of its epoch has an effect any more (law L9)."""

    def count_wire(self, wire_bytes: int) -> None:
        """So many bytes of this pair crossed the wire, either way."""
