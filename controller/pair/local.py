"""The channel of a local pair: the same stream of frames, by direct call.

Owns nothing but the way. A frame takes effect during the call or, where the target has to wait,
in the order of the target's own write queue.
"""

from __future__ import annotations

from controller.link.channel import Applied, Control, Inquiry, Receiver, Ticket
from controller.link.turns import Turns


def _applied(ticket: Ticket) -> Applied:
    def applied(failure: str) -> None:
        if failure:
            ticket.lost()
        else:
            ticket.acked()

    return applied


class LocalChannel:
    """A `Channel` that ends at a receiver of the same process."""

    backlog_bytes = 0

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.alive = True
        self.turns = Turns()

    def write(self, offset_bytes: int, data: memoryview, ticket: Ticket, *, copy: bool) -> None:
        """Hand data over."""
        self._receiver.on_write(offset_bytes, data, _applied(ticket), copy=copy)

    def discard(self, offset_bytes: int, length_bytes: int, ticket: Ticket, *, copy: bool) -> None:
        """Hand a discard over."""
        self._receiver.on_discard(offset_bytes, length_bytes, _applied(ticket), copy=copy)

    def flush(self, ticket: Ticket, *, copy: bool) -> None:
        """Ask for durability."""
        self._receiver.on_flush(_applied(ticket), copy=copy)

    def control(self, message: Control) -> None:
        """Hand a message over."""
        if self.alive:
            self._receiver.on_control(message)

    def bitmap(self, payload: bytes, *, doubt: bool = False) -> None:
        """Hand pages over."""
        self._receiver.on_bitmap(payload, doubt=doubt)

    def intent(self, ranges: list[tuple[int, int]]) -> None:
        """Tell ahead what will be written."""
        self._receiver.on_intent(ranges)

    def compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, inquiry: Inquiry, *, copy: bool
    ) -> None:
        """Ask which blocks differ."""
        self._receiver.on_compare(offset_bytes, length_bytes, digests, inquiry.compared, copy=copy)

    def forget(self) -> None:
        """Nothing is on the way: every frame was answered one by one."""
