"""One pair's place in a stream: its frames, split to fit.

Owns the cutting of what is too long for one frame. Must not number or remember anything: the
stream does. On a stream that is closed every frame is lost before the call returns.
"""

from __future__ import annotations

from controller.link.channel import Control, Inquiry, Receiver, Ticket
from controller.link.frames import (
    FLAG_COPY,
    FLAG_DOUBT,
    MAX_DISCARD_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RANGES,
    RANGE,
    Kind,
)
from controller.link.stream import Stream
from controller.link.turns import Turns


class StreamChannel:
    """A pair's `Channel` on a stream: splits what is too long for a frame."""

    def __init__(self, stream: Stream, pair: bytes, receiver: Receiver) -> None:
        self._stream = stream
        self._pair = pair
        self._receiver = receiver

    @property
    def alive(self) -> bool:
        """Whether the connection stands."""
        return self._stream.open

    @property
    def backlog_bytes(self) -> int:
        """Data of all pairs on the way."""
        return self._stream.backlog_bytes

    @property
    def turns(self) -> Turns:
        """Those of all pairs of the connection."""
        return self._stream.turns

    def write(self, offset_bytes: int, data: memoryview, ticket: Ticket, *, copy: bool) -> None:
        """Send data in frames of at most 1 MiB; the last one's acknowledgement is the ticket's.

        While a stream closes its tickets are lost one by one, and whoever waited for one may
        write again at once: on a closed stream the ticket is lost before this returns.
        """
        if not self._stream.open:
            ticket.lost()
            return
        flags = FLAG_COPY if copy else 0
        size = len(data)
        for at in range(0, size, MAX_PAYLOAD_BYTES):
            piece = data[at : at + MAX_PAYLOAD_BYTES]
            wire_bytes = self._stream.send(
                Kind.WRITE,
                self._pair,
                piece,
                ticket=ticket if at + MAX_PAYLOAD_BYTES >= size else None,
                flags=flags,
                offset_bytes=offset_bytes + at,
                length_bytes=len(piece),
            )
            self._receiver.count_wire(wire_bytes)

    def discard(self, offset_bytes: int, length_bytes: int, ticket: Ticket, *, copy: bool) -> None:
        """Send discards of at most 128 MiB."""
        if not self._stream.open:
            ticket.lost()
            return
        flags = FLAG_COPY if copy else 0
        for at in range(0, length_bytes, MAX_DISCARD_BYTES):
            piece_bytes = min(MAX_DISCARD_BYTES, length_bytes - at)
            wire_bytes = self._stream.send(
                Kind.DISCARD,
                self._pair,
                ticket=ticket if at + piece_bytes == length_bytes else None,
                flags=flags,
                offset_bytes=offset_bytes + at,
                length_bytes=piece_bytes,
            )
            self._receiver.count_wire(wire_bytes)

    def flush(self, ticket: Ticket, *, copy: bool) -> None:
        """Ask for durability."""
        if not self._stream.open:
            ticket.lost()
            return
        flags = FLAG_COPY if copy else 0
        wire_bytes = self._stream.send(Kind.FLUSH, self._pair, ticket=ticket, flags=flags)
        self._receiver.count_wire(wire_bytes)

    def control(self, message: Control) -> None:
        """Send JSON."""
        if not self._stream.open:
            return
        self._receiver.count_wire(self._stream.send_control(self._pair, message))

    def bitmap(self, payload: bytes, *, doubt: bool = False) -> None:
        """Send pages."""
        if not self._stream.open:
            return
        flags = FLAG_DOUBT if doubt else 0
        wire_bytes = self._stream.send(Kind.BITMAP, self._pair, payload, flags=flags)
        self._receiver.count_wire(wire_bytes)

    def intent(self, ranges: list[tuple[int, int]]) -> None:
        """Send what will be written soon; what doesn't fit a frame is not told."""
        if not self._stream.open:
            return
        payload = b"".join(RANGE.pack(*each) for each in ranges[:MAX_RANGES])
        self._receiver.count_wire(self._stream.send(Kind.INTENT, self._pair, payload))

    def compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, inquiry: Inquiry, *, copy: bool
    ) -> None:
        """Ask which blocks differ."""
        if not self._stream.open:
            inquiry.lost()
            return
        flags = FLAG_COPY if copy else 0
        wire_bytes = self._stream.ask(
            self._pair, offset_bytes, length_bytes, digests, inquiry, flags
        )
        self._receiver.count_wire(wire_bytes)

    def forget(self) -> None:
        """End this pair's tickets."""
        self._stream.forget(self._pair)
