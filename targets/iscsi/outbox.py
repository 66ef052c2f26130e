"""What one connection has still to send: an I/O vector, and who to tell when it is gone.

Owns the order of bytes on the wire and the outgoing digests. Must not know sockets: a shell
takes `vector()` and reports with `sent()`. Bounded by its users: the session stops taking
requests while `unsent_bytes` is high.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from targets.iscsi.pdu import BHS, Opcode, digest

MAX_VECTOR = 512
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")

Data = bytes | memoryview


class Outbox:
    """Outgoing PDUs of one connection."""

    __slots__ = ("_parts", "_releases", "data_digest", "header_digest", "queued", "sent_total")

    def __init__(self) -> None:
        self._parts: deque[Data] = deque()
        self._releases: deque[tuple[int, Callable[[], None]]] = deque()
        self.queued = 0
        """All bytes ever queued."""
        self.sent_total = 0
        self.header_digest = False
        self.data_digest = False

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the socket."""
        return self.queued - self.sent_total

    def put(self, header: bytes, data: Data = b"") -> None:
        """Queue a PDU whose header already says the data's length."""
        parts = self._parts
        length = len(data)
        size = 48 + length
        parts.append(header)
        if self.header_digest:
            parts.append(digest(header))
            size += 4
        if length:
            parts.append(data)
            padding = -length & 3
            if padding:
                parts.append(_PADDING[padding])
                size += padding
            if self.data_digest:
                parts.append(digest(data, _PADDING[padding]))
                size += 4
        self.queued += size

    def when_sent(self, release: Callable[[], None]) -> None:
        """Call `release` once everything queued so far has left."""
        self._releases.append((self.queued, release))

    def vector(self) -> list[Data]:
        """The next parts to send, at most `MAX_VECTOR`."""
        parts = self._parts
        if len(parts) <= MAX_VECTOR:
            return list(parts)
        return [parts[i] for i in range(MAX_VECTOR)]

    def sent(self, count: int) -> None:
        """The socket took `count` bytes."""
        self.sent_total += count
        parts = self._parts
        if self.sent_total == self.queued:
            parts.clear()
        else:
            while count:
                first = parts.popleft()
                if count < len(first):
                    parts.appendleft(memoryview(first)[count:])
                    break
                count -= len(first)
        releases = self._releases
        while releases and releases[0][0] <= self.sent_total:
            releases.popleft()[1]()

    def drop(self) -> None:
        """The connection is gone: nothing more is sent, everything is released."""
        self._parts.clear()
        self.sent_total = self.queued
        while self._releases:
            self._releases.popleft()[1]()


def build(opcode: Opcode, flags: int, data_bytes: int, lun: int, *words: int) -> bytes:
    """A header of 48 bytes; `words` are the eight from byte 16."""
    return BHS.pack(opcode, flags, 0, 0, data_bytes, lun, *words)
