"""Bytes to PDUs: one receive buffer, parsed in place for as many PDUs as have arrived.

Owns framing, limits and incoming digests. Must not know sockets: a shell fills `room()` and
reports with `received()`. Large payloads go straight to where the sink wants them, without
passing the receive buffer. Fails with `ProtocolError`.
"""

from __future__ import annotations

from typing import Protocol

from targets.iscsi.pdu import (
    BHS,
    BHS_BYTES,
    DIGEST_BYTES,
    MAX_AHS_BYTES,
    Header,
    ProtocolError,
    RejectReason,
    digest,
)

DIRECT_BYTES = 16 << 10
"""Payloads with at least this much still to come go straight to their place."""
_EMPTY = memoryview(b"")
_unpack = BHS.unpack


class Sink(Protocol):
    """Who takes the PDUs."""

    def place(self, header: Header, raw: bytes, length_bytes: int) -> memoryview | None:
        """Where a large payload should land, or None for the receive buffer. The same PDU
        comes to `handle` next, with this very view as its data."""

    def handle(self, header: Header, raw: bytes, data: memoryview) -> None:
        """Take one PDU; `data` is valid during the call only, unless it was placed."""

    @property
    def paused(self) -> bool:
        """True while no further PDU may be delivered."""


class PduStream:
    """The receiving half of one connection."""

    def __init__(self, sink: Sink, max_segment_bytes: int) -> None:
        self.sink = sink
        self.max_segment_bytes = max_segment_bytes
        self.header_digest = False
        self.data_digest = False
        # Room for the largest PDU that is not placed, and as much again of what follows it.
        size = max_segment_bytes + BHS_BYTES + MAX_AHS_BYTES + 2 * DIGEST_BYTES + 4
        self._buffer = memoryview(bytearray(size))
        self._start = 0
        self._end = 0
        self._placed: memoryview | None = None
        self._placed_got = 0
        self._header: Header = ()
        self._raw = b""

    def room(self) -> list[memoryview]:
        """Where the next bytes go: the placed payload first, then the receive buffer."""
        if self._placed is not None and self._placed_got < len(self._placed):
            return [self._placed[self._placed_got :], self._buffer]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and (self._end > len(self._buffer) // 2):
            pending = self._end - self._start
            self._buffer[:pending] = self._buffer[self._start : self._end]
            self._start, self._end = 0, pending
        return [self._buffer[self._end :]]

    def received(self, count: int) -> None:
        """`count` bytes were put into `room()`: deliver every PDU that is complete."""
        if self._placed is not None and self._placed_got < len(self._placed):
            direct = min(count, len(self._placed) - self._placed_got)
            self._placed_got += direct
            self._start, self._end = 0, count - direct
        else:
            self._end += count
        self.parse()

    def parse(self) -> None:
        """Deliver complete PDUs until there is none, or the sink is paused."""
        if self._placed is not None and not self._finish_placed():
            return
        buffer = self._buffer
        while self._end - self._start >= BHS_BYTES and not self.sink.paused:
            start = self._start
            raw = bytes(buffer[start : start + BHS_BYTES])
            header = _unpack(raw)
            if not header[4] and not self.header_digest:
                self._start = start + BHS_BYTES
                self.sink.handle(header, raw, _EMPTY)
            elif not self._next(header, raw):
                return

    def _next(self, header: Header, raw: bytes) -> bool:
        """Deliver the PDU at the start of the buffer; False when it isn't complete."""
        buffer, start, available = self._buffer, self._start, self._end
        lengths = header[4]
        data_bytes = lengths & 0xFFFFFF
        if data_bytes > self.max_segment_bytes:
            raise ProtocolError("data segment longer than declared", RejectReason.PROTOCOL)
        at = start + BHS_BYTES + (lengths >> 24) * 4
        if self.header_digest:
            at += DIGEST_BYTES
            if available < at:
                return False
            self._check(buffer[start : at - DIGEST_BYTES], buffer[at - DIGEST_BYTES : at], "header")
        end = at + (data_bytes + 3 & ~3)
        total = end + (DIGEST_BYTES if self.data_digest and data_bytes else 0)
        if total > available:
            if total - available >= DIRECT_BYTES and available >= at:
                self._place(header, raw, at, data_bytes)
            return False
        data = buffer[at : at + data_bytes] if data_bytes else _EMPTY
        if self.data_digest and data_bytes:
            self._check(buffer[at:end], buffer[end:total], "data")
        self._start = total
        self.sink.handle(header, raw, data)
        return True

    def _check(self, covered: memoryview, found: memoryview, what: str) -> None:
        if digest(covered) != found:
            reason = RejectReason.DATA_DIGEST if what == "data" else None
            raise ProtocolError(f"{what} digest error", reason)

    def _place(self, header: Header, raw: bytes, at: int, data_bytes: int) -> None:
        view = self.sink.place(header, raw, data_bytes)
        if view is None:
            return
        got = min(self._end - at, data_bytes)
        view[:got] = self._buffer[at : at + got]
        self._placed, self._placed_got = view, got
        self._header, self._raw = header, raw
        # What is left in the buffer, if anything, is padding or digest of this PDU.
        self._start = at + got
        if got < data_bytes:
            self._start = self._end = 0

    def _finish_placed(self) -> bool:
        """The placed payload is whole: take padding and digest, then deliver it."""
        placed = self._placed
        assert placed is not None
        padding = -len(placed) & 3
        tail = padding + (DIGEST_BYTES if self.data_digest else 0)
        if self._placed_got < len(placed) or self._end - self._start < tail:
            return False
        at = self._start
        if self.data_digest:
            found = self._buffer[at + padding : at + tail]
            if digest(placed, self._buffer[at : at + padding]) != found:
                raise ProtocolError("data digest error", RejectReason.DATA_DIGEST)
        self._start = at + tail
        self._placed = None
        self.sink.handle(self._header, self._raw, placed)
        return True
