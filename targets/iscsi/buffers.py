"""The pool of data buffers: bounded, by size class, with a queue of those who wait.

Owns the memory that data lands in. Must not know what it is for. Fails by answering None
when the bound is reached; who then waits is called back in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SMALLEST_BYTES = 4096
LARGEST_BYTES = 16 << 20


class Buffer:
    """A piece of memory on loan from the pool."""

    __slots__ = ("lent", "size_class", "view")

    def __init__(self, size_class: int) -> None:
        self.size_class = size_class
        self.view = memoryview(bytearray(SMALLEST_BYTES << size_class))
        self.lent = True


class BufferPool:
    """Buffers in powers of two; at most `limit_bytes` exist, lent or kept for the next."""

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < LARGEST_BYTES:
            raise ValueError("the pool has to hold one buffer of the largest size")
        self.limit_bytes = limit_bytes
        self.existing_bytes = 0
        self.lent_bytes = 0
        classes = (LARGEST_BYTES // SMALLEST_BYTES).bit_length()
        self._free: list[list[Buffer]] = [[] for _ in range(classes)]
        self._waiting: deque[tuple[int, Callable[[Buffer], None]]] = deque()

    def take(self, length_bytes: int) -> Buffer | None:
        """A buffer of at least `length_bytes`, or None: then ask with `wait`."""
        if self._waiting:
            return None
        return self._take((max(length_bytes, 1) - 1 >> 12).bit_length())

    def _take(self, size_class: int) -> Buffer | None:
        free = self._free[size_class]
        if free:
            buffer = free.pop()
            buffer.lent = True
        else:
            size = SMALLEST_BYTES << size_class
            if self.lent_bytes + size > self.limit_bytes:
                return None
            while self.existing_bytes + size > self.limit_bytes:
                self._forget_one()
            buffer = Buffer(size_class)
            self.existing_bytes += size
        self.lent_bytes += SMALLEST_BYTES << size_class
        return buffer

    def _forget_one(self) -> None:
        fullest = max(
            self._free, key=lambda free: len(free) and SMALLEST_BYTES << free[0].size_class
        )
        self.existing_bytes -= SMALLEST_BYTES << fullest.pop().size_class

    def wait(self, length_bytes: int, ready: Callable[[Buffer], None]) -> None:
        """Call `ready` with a buffer once there is one; the caller bounds how many wait."""
        self._waiting.append(((max(length_bytes, 1) - 1 >> 12).bit_length(), ready))

    def give(self, buffer: Buffer) -> None:
        """Return a buffer; whoever waits longest gets the next."""
        assert buffer.lent, "a buffer was returned twice"
        buffer.lent = False
        self.lent_bytes -= SMALLEST_BYTES << buffer.size_class
        self._free[buffer.size_class].append(buffer)
        while self._waiting:
            size_class, ready = self._waiting[0]
            found = self._take(size_class)
            if found is None:
                return
            self._waiting.popleft()
            ready(found)
