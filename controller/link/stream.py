"""One epoch of the link: numbering, acknowledgement, and what is still owed (laws L9, S1).

Owns the sequence numbers of one connection and the tickets of its unacknowledged frames. Pure:
bytes go out through a `send` that is handed in, frames come in parsed. When it is closed it is
dead for good: a later frame or acknowledgement of its connection finds nobody. Raises
FrameError when the peer breaks the numbering.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Protocol

from controller.link.channel import Control, Receiver, Ticket
from controller.link.frames import (
    FLAG_COPY,
    HEADER_BYTES,
    MAX_CONTROL_BYTES,
    MAX_DISCARD_BYTES,
    MAX_PAYLOAD_BYTES,
    NODE,
    NUMBERED,
    Frame,
    FrameError,
    Kind,
    encode_header,
)

UNKNOWN_PAIR = "unknown_pair"
"""Kind of the message that answers a message to a pair that isn't here."""


class Send(Protocol):
    """Hands bytes to the wire; `payload` must be taken or copied before it returns."""

    def __call__(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        """Send."""


class _Sent:
    """A numbered frame that the peer hasn't acknowledged."""

    __slots__ = ("pair", "sequence", "size_bytes", "ticket")

    def __init__(self, sequence: int, pair: bytes, size_bytes: int, ticket: Ticket | None) -> None:
        self.sequence = sequence
        self.pair = pair
        self.size_bytes = size_bytes
        self.ticket = ticket


class _Arrived:
    """A numbered frame of the peer that has not taken effect yet."""

    __slots__ = ("done", "sequence", "stream")

    def __init__(self, stream: Stream, sequence: int) -> None:
        self.stream = stream
        self.sequence = sequence
        self.done = False

    def applied(self, failure: str) -> None:
        """It has; a failure was reported by the pair itself, ahead of this acknowledgement."""
        del failure
        self.done = True
        self.stream.applied_one()


class Stream:
    """Both directions of one connection, after the hellos."""

    def __init__(
        self,
        send: Send,
        find: Callable[[bytes], Receiver | None],
        on_node_control: Callable[[Control], None],
    ) -> None:
        self.open = True
        self.backlog_bytes = 0
        self._send = send
        self._find = find
        self._on_node_control = on_node_control
        self._next_out = 1
        self._next_in = 1
        self._sent: deque[_Sent] = deque()
        self._flushes: dict[int, _Sent] = {}
        self._arrived: deque[_Arrived] = deque()
        self._acked_in = 0
        self._told_acked = 0
        self._receiving = False

    # ------------------------------------------------------------ out

    def send(
        self,
        kind: Kind,
        pair: bytes,
        payload: bytes | memoryview = b"",
        *,
        ticket: Ticket | None = None,
        flags: int = 0,
        offset_bytes: int = 0,
        length_bytes: int = 0,
    ) -> int:
        """Number a frame and send it; returns the bytes it takes on the wire."""
        assert self.open
        sequence = self._next_out
        self._next_out += 1
        header = encode_header(
            kind,
            pair,
            flags=flags,
            sequence=sequence,
            offset_bytes=offset_bytes,
            length_bytes=length_bytes,
            payload=payload,
        )
        sent = _Sent(sequence, pair, len(payload), ticket)
        if kind is Kind.FLUSH:
            self._flushes[sequence] = sent
        else:
            self._sent.append(sent)
            self.backlog_bytes += len(payload)
        self._send(header, payload)
        return HEADER_BYTES + len(payload)

    def send_control(self, pair: bytes, message: Control) -> int:
        """Send JSON at this point of the stream."""
        payload = json.dumps(message, separators=(",", ":")).encode()
        assert len(payload) <= MAX_CONTROL_BYTES
        return self.send(Kind.CONTROL, pair, payload)

    # ------------------------------------------------------------ in

    def receive(self, frame: Frame) -> None:
        """Take one frame of the peer."""
        if not self.open:
            return
        if frame.kind in NUMBERED:
            if frame.sequence != self._next_in:
                raise FrameError(f"{frame} where #{self._next_in} was due")
            self._next_in += 1
            self._receiving = True
            try:
                self._numbered(frame)
            finally:
                self._receiving = False
        elif frame.kind is Kind.ACK:
            self._ack(frame.sequence)
        elif frame.kind is Kind.FLUSHED:
            self._flushed(frame)
        elif frame.kind in (Kind.PING, Kind.PONG):
            return
        else:
            raise FrameError(f"{frame} in the middle of a stream")

    def _numbered(self, frame: Frame) -> None:
        receiver = self._find(frame.pair) if frame.pair != NODE else None
        if receiver is not None:
            receiver.count_wire(HEADER_BYTES + len(frame.payload))
        copy = bool(frame.flags & FLAG_COPY)
        if frame.kind is Kind.FLUSH:
            self._flush(frame.sequence, receiver, copy=copy)
            return
        arrived = _Arrived(self, frame.sequence)
        self._arrived.append(arrived)
        if frame.kind is Kind.CONTROL:
            message = parse_json(frame.payload)
            if receiver is not None:
                receiver.on_control(message)
            elif frame.pair == NODE:
                self._on_node_control(message)
            elif message.get("kind") != UNKNOWN_PAIR:
                # An answer to this very message would be answered again, for ever.
                self.send_control(frame.pair, {"kind": UNKNOWN_PAIR})
            arrived.done = True
        elif receiver is None:
            # The pair was deleted here; its last frames mean nothing any more.
            arrived.done = True
        elif frame.kind is Kind.WRITE:
            receiver.on_write(frame.offset_bytes, frame.payload, arrived.applied, copy=copy)
        elif frame.kind is Kind.DISCARD:
            receiver.on_discard(frame.offset_bytes, frame.length_bytes, arrived.applied, copy=copy)
        else:
            receiver.on_bitmap(frame.payload)
            arrived.done = True
        self.settle()

    def _flush(self, sequence: int, receiver: Receiver | None, *, copy: bool) -> None:
        def flushed(failure: str) -> None:
            if self.open:
                self.send_acks()
                length = 1 if failure else 0
                self._send(encode_header(Kind.FLUSHED, sequence=sequence, length_bytes=length))

        if receiver is None:
            flushed("unknown pair")
        else:
            receiver.on_flush(flushed, copy=copy)

    def applied_one(self) -> None:
        """A frame has taken effect; outside of a batch nobody else would tell the peer."""
        self.settle()
        if not self._receiving:
            self.send_acks()

    def settle(self) -> None:
        """Move the acknowledgement over everything that has taken effect in order."""
        arrived = self._arrived
        while arrived and arrived[0].done:
            self._acked_in = arrived.popleft().sequence
        if self._acked_in - self._told_acked >= 64:
            self.send_acks()

    @property
    def owes_ack(self) -> bool:
        """Whether something was applied that the peer hasn't been told."""
        return self._acked_in > self._told_acked

    def send_acks(self) -> None:
        """Tell the peer what has been applied; called at the end of each batch of frames."""
        if self.open and self.owes_ack:
            self._told_acked = self._acked_in
            self._send(encode_header(Kind.ACK, sequence=self._acked_in))

    def _ack(self, sequence: int) -> None:
        if sequence >= self._next_out:
            raise FrameError(f"acknowledgement of #{sequence}, which was never sent")
        sent = self._sent
        while sent and sent[0].sequence <= sequence:
            entry = sent.popleft()
            self.backlog_bytes -= entry.size_bytes
            if entry.ticket is not None:
                entry.ticket.acked()

    def _flushed(self, frame: Frame) -> None:
        entry = self._flushes.pop(frame.sequence, None)
        if entry is None:
            raise FrameError(f"answer to flush #{frame.sequence}, which was never sent")
        if entry.ticket is not None:
            if frame.length_bytes:
                entry.ticket.lost()
            else:
                entry.ticket.acked()

    # ------------------------------------------------------------ ends

    def forget(self, pair: bytes) -> None:
        """The peer refused this pair's frames: nothing of what is on the way will count."""
        for entry in [*self._sent, *self._flushes.values()]:
            if entry.pair == pair and entry.ticket is not None:
                ticket, entry.ticket = entry.ticket, None
                ticket.lost()

    def close(self) -> None:
        """The connection is gone: every ticket is lost, in order."""
        if not self.open:
            return
        self.open = False
        entries = [*self._sent, *self._flushes.values()]
        self._sent.clear()
        self._flushes.clear()
        self._arrived.clear()
        self.backlog_bytes = 0
        for entry in entries:
            if entry.ticket is not None:
                entry.ticket.lost()


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

    def bitmap(self, payload: bytes) -> None:
        """Send pages."""
        if not self._stream.open:
            return
        self._receiver.count_wire(self._stream.send(Kind.BITMAP, self._pair, payload))

    def forget(self) -> None:
        """End this pair's tickets."""
        self._stream.forget(self._pair)


def parse_json(payload: memoryview | bytes) -> Control:
    """A control message; FrameError when it isn't a JSON object."""
    try:
        message = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise FrameError("control message is not JSON") from error
    if not isinstance(message, dict):
        raise FrameError("control message is not an object")
    return message
