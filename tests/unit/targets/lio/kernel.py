"""The kernel's part of a TCMU ring: it puts entries in, and collects answers.

Written against the header and what the kernel does with it, not against `targets.lio.layout`, so
that both can't be wrong in the same way. It breaks, like the kernel, at an id it doesn't know.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

PAGE = 4096
RING_AT = 128
STALE = 0xA5
"""What pages hold that no command uses: somebody else's data."""


@dataclass
class Sent:
    """One command that is out."""

    cmd_id: int
    cdb: bytes
    length: int
    writes: bool
    pages: list[int]


@dataclass
class Answer:
    """What the kernel passes on to an initiator."""

    status: int
    sense: bytes
    data: bytes
    """Data-in as the initiator gets it."""
    unknown: bool


class RingBrokenError(Exception):
    """The kernel would give the ring up."""


@dataclass
class KernelRing:
    """One device: mailbox, ring, data area."""

    ring_bytes: int = 2048
    pages: int = 64
    start: int = 0
    flags: int = 0xF
    choose: Callable[[list[int]], int] = min
    """Which free page comes next: not in a row, and there are more iovecs."""
    area: bytearray = field(init=False)
    out: dict[int, Sent] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    free: set[int] = field(init=False)
    cleaned: int = field(init=False)
    next_id: int = 1

    def __post_init__(self) -> None:
        self.data_at = -(-(RING_AT + self.ring_bytes) // PAGE) * PAGE
        self.area = bytearray(self.data_at + self.pages * PAGE)
        self.area[self.data_at :] = bytes([STALE]) * (self.pages * PAGE)
        struct.pack_into("=HHII", self.area, 0, 2, self.flags, RING_AT, self.ring_bytes)
        self.free = set(range(self.pages))
        self.cleaned = self.start
        self.head = self.start
        struct.pack_into("=I", self.area, 64, self.start)

    @property
    def view(self) -> memoryview:
        return memoryview(self.area)

    @property
    def head(self) -> int:
        return int(struct.unpack_from("=I", self.area, 12)[0])

    @head.setter
    def head(self, value: int) -> None:
        struct.pack_into("=I", self.area, 12, value)

    @property
    def tail(self) -> int:
        return int(struct.unpack_from("=I", self.area, 64)[0])

    def _page_at(self, page: int) -> int:
        return self.data_at + page * PAGE

    def _reserve(self, size: int) -> int | None:
        """Room for an entry in one piece, a PAD before it where the end is too near."""
        head, to_end = self.head, self.ring_bytes - self.head
        used = (head - self.cleaned) % self.ring_bytes
        needed = size if to_end >= size else size + to_end
        if self.ring_bytes - used - 1 < needed:
            return None
        if to_end < size:
            struct.pack_into("=IHBB", self.area, RING_AT + head, to_end, 0, 0, 0)
            self.head = head = 0
        return head

    def send(
        self, cdb: bytes, length: int = 0, out: bytes | None = None, *, op: int = 1
    ) -> int | None:
        """Queue a command with `length` bytes of data-in, or `out`; None when there is no room."""
        length = len(out) if out is not None else length
        count = -(-length // PAGE)
        if count > len(self.free):
            return None
        free, pages = set(self.free), []
        for _ in range(count):
            page = self.choose(sorted(free))
            free.discard(page)
            pages.append(page)
        iovecs = self._iovecs(pages, length)
        base = max(48 + 16 * len(iovecs), 112)
        size = base + -(-len(cdb) // 8) * 8
        at = self._reserve(size)
        if at is None:
            return None
        self.free = free
        cmd_id, self.next_id = self.next_id, self.next_id % 0xFFFF + 1
        offset = RING_AT + at
        self.area[offset : offset + size] = bytes(size)
        struct.pack_into(
            "=IHBBIII4xQ", self.area, offset,
            size | op, cmd_id, 0, 0, len(iovecs), 0, 0, offset + base,
        )  # fmt: skip
        for index, iovec in enumerate(iovecs):
            struct.pack_into("=QQ", self.area, offset + 48 + 16 * index, *iovec)
        self.area[offset + base : offset + base + len(cdb)] = cdb
        if out is not None:
            self._scatter(pages, out)
        self.out[cmd_id] = Sent(cmd_id, cdb, length, out is not None, pages)
        self.head = (at + size) % self.ring_bytes
        return cmd_id

    def _iovecs(self, pages: list[int], length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for index, page in enumerate(pages):
            here = min(PAGE, length - index * PAGE)
            if index and page == pages[index - 1] + 1:
                found[-1] = (found[-1][0], found[-1][1] + here)
            else:
                found.append((self._page_at(page), here))
        return found

    def _scatter(self, pages: list[int], data: bytes) -> None:
        for index, page in enumerate(pages):
            piece = data[index * PAGE : (index + 1) * PAGE]
            self.area[self._page_at(page) : self._page_at(page) + len(piece)] = piece

    def notify(self, kind: int, ids: list[int]) -> bool:
        """Queue a task management entry."""
        size = -(-(32 + 2 * len(ids)) // 8) * 8
        at = self._reserve(size)
        if at is None:
            return False
        offset = RING_AT + at
        self.area[offset : offset + size] = bytes(size)
        struct.pack_into("=IHBBB3xI", self.area, offset, size | 2, 0, 0, 0, kind, len(ids))
        struct.pack_into(f"={len(ids)}H", self.area, offset + 32, *ids)
        self.head = (at + size) % self.ring_bytes
        return True

    def collect(self) -> list[int]:
        """What a poke makes the kernel do; the ids that were answered."""
        done: list[int] = []
        while self.cleaned != self.tail:
            offset = RING_AT + self.cleaned
            len_op, cmd_id, kflags, uflags = struct.unpack_from("=IHBB", self.area, offset)
            size = len_op & ~7
            if size < 8 or size > self.ring_bytes - self.cleaned:
                raise RingBrokenError(f"length {size}")
            if len_op & 7 not in {0, 2}:
                assert kflags == 0
                self._finish(offset, cmd_id, uflags)
                done.append(cmd_id)
            self.cleaned = (self.cleaned + size) % self.ring_bytes
        return done

    def _finish(self, offset: int, cmd_id: int, uflags: int) -> None:
        sent = self.out.pop(cmd_id, None)
        if sent is None:
            raise RingBrokenError(f"id {cmd_id}")
        status, read_len = struct.unpack_from("=B3xI", self.area, offset + 8)
        sense = bytes(self.area[offset + 16 : offset + 112])
        if uflags & 1:
            status, sense = 2, bytes(96)
        length = sent.length
        if uflags & 2 and read_len:
            length = min(length, read_len)
        data = b""
        if not sent.writes and status != 2:
            whole = b"".join(
                self.area[self._page_at(page) : self._page_at(page) + PAGE] for page in sent.pages
            )
            data = whole[:length]
        self.answers[cmd_id] = Answer(status, sense if status == 2 else b"", data, bool(uflags & 1))
        self.release(sent)

    def release(self, sent: Sent) -> None:
        """Pages of an ended command hold what somebody else left there."""
        for page in sent.pages:
            self.area[self._page_at(page) : self._page_at(page + 1)] = bytes([STALE]) * PAGE
            self.free.add(page)

    def unused(self) -> list[int]:
        """Free pages that don't look as the kernel left them: somebody wrote there."""
        stale = bytes([STALE]) * PAGE
        return [
            page
            for page in self.free
            if self.area[self._page_at(page) : self._page_at(page + 1)] != stale
        ]
