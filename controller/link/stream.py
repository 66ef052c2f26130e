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

from controller.link.channel import Control, Inquiry, Receiver, Ticket
from controller.link.frames import (
    COMPARED_BLOCK_BYTES,
    FLAG_COPY,
    FLAG_DOUBT,
    HEADER_BYTES,
    MAX_CONTROL_BYTES,
    NODE,
    NUMBERED,
    RANGE,
    Frame,
    FrameError,
    Kind,
    encode_header,
)
from controller.link.turns import Turns

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


class _Asked:
    """A comparison that the peer hasn't answered."""

    __slots__ = ("blocks", "inquiry", "pair")

    def __init__(self, pair: bytes, blocks: int, inquiry: Inquiry) -> None:
        self.pair = pair
        self.blocks = blocks
        self.inquiry = inquiry


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
        self.turns = Turns()
        self._send = send
        self._find = find
        self._on_node_control = on_node_control
        self._next_out = 1
        self._next_in = 1
        self._sent: deque[_Sent] = deque()
        self._flushes: dict[int, _Sent] = {}
        self._inquiries: dict[int, _Asked] = {}
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
        sequence = self._number()
        sent = _Sent(sequence, pair, len(payload), ticket)
        if kind is Kind.FLUSH:
            self._flushes[sequence] = sent
        else:
            self._sent.append(sent)
            self.backlog_bytes += len(payload)
        header = encode_header(
            kind,
            pair,
            flags=flags,
            sequence=sequence,
            offset_bytes=offset_bytes,
            length_bytes=length_bytes,
            payload=payload,
        )
        self._send(header, payload)
        return HEADER_BYTES + len(payload)

    def ask(
        self,
        pair: bytes,
        offset_bytes: int,
        length_bytes: int,
        digests: bytes,
        inquiry: Inquiry,
        flags: int,
    ) -> int:
        """Send a COMPARE at this point of the stream; returns the bytes it takes on the wire."""
        sequence = self._number()
        blocks = length_bytes // COMPARED_BLOCK_BYTES
        self._inquiries[sequence] = _Asked(pair, blocks, inquiry)
        header = encode_header(
            Kind.COMPARE,
            pair,
            flags=flags,
            sequence=sequence,
            offset_bytes=offset_bytes,
            length_bytes=length_bytes,
            payload=digests,
        )
        self._send(header, digests)
        return HEADER_BYTES + len(digests)

    def _number(self) -> int:
        assert self.open
        sequence = self._next_out
        self._next_out += 1
        return sequence

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
        elif frame.kind is Kind.COMPARED:
            self._compared(frame)
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
        if frame.kind is Kind.COMPARE:
            self._compare(frame, receiver, copy=copy)
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
        elif frame.kind is Kind.INTENT:
            receiver.on_intent(list(RANGE.iter_unpack(frame.payload)))
            arrived.done = True
        else:
            receiver.on_bitmap(frame.payload, doubt=bool(frame.flags & FLAG_DOUBT))
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

    def _compare(self, frame: Frame, receiver: Receiver | None, *, copy: bool) -> None:
        sequence, blocks = frame.sequence, frame.length_bytes // COMPARED_BLOCK_BYTES

        def compared(differing: int | None) -> None:
            if self.open:
                bits = b"" if not differing else differing.to_bytes(-(-blocks // 8), "little")
                length = 1 if differing is None else 0
                header = encode_header(
                    Kind.COMPARED, sequence=sequence, length_bytes=length, payload=bits
                )
                self._send(header, bits)

        if receiver is None:
            compared(None)
        else:
            receiver.on_compare(
                frame.offset_bytes, frame.length_bytes, bytes(frame.payload), compared, copy=copy
            )

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

    def _compared(self, frame: Frame) -> None:
        asked = self._inquiries.pop(frame.sequence, None)
        if asked is None:
            raise FrameError(f"answer to compare #{frame.sequence}, which was never sent")
        differing = int.from_bytes(frame.payload, "little")
        if differing >> asked.blocks:
            raise FrameError(f"compare #{frame.sequence} was answered for too many blocks")
        asked.inquiry.compared(None if frame.length_bytes else differing)

    # ------------------------------------------------------------ ends

    def forget(self, pair: bytes) -> None:
        """The peer refused this pair's frames: nothing of what is on the way will count."""
        for entry in [*self._sent, *self._flushes.values()]:
            if entry.pair == pair and entry.ticket is not None:
                ticket, entry.ticket = entry.ticket, None
                ticket.lost()
        # An answer may come still: it finds somebody who has stopped asking.
        for asked in self._inquiries.values():
            if asked.pair == pair:
                asked.inquiry.lost()

    def close(self) -> None:
        """The connection is gone: every ticket is lost, in order."""
        if not self.open:
            return
        self.open = False
        self.turns.close()
        entries = [*self._sent, *self._flushes.values()]
        asked, self._inquiries = list(self._inquiries.values()), {}
        self._sent.clear()
        self._flushes.clear()
        self._arrived.clear()
        self.backlog_bytes = 0
        for entry in entries:
            if entry.ticket is not None:
                entry.ticket.lost()
        for each in asked:
            each.inquiry.lost()


def parse_json(payload: memoryview | bytes) -> Control:
    """A control message; FrameError when it isn't a JSON object."""
    try:
        message = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise FrameError("control message is not JSON") from error
    if not isinstance(message, dict):
        raise FrameError("control message is not an object")
    return message
