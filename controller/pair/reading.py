"""Reading a source while hosts write to it.

Owns the one buffer and the rule that makes a mirror exact: what was read is handed over in the
step in which it is what the volume holds. Where a read had to wait for the disk and a write
overtook it, it is read again. A failed read is told; nothing is retried.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.volume.bitmap import BLOCK_BYTES
from controller.volume.store import StoreError
from controller.volume.volume import Volume

CHUNK_BYTES = 256 << 10


class SourceReader:
    """Reads one chunk at a time."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._buffer = bytearray(CHUNK_BYTES)
        self._reading: tuple[int, int] | None = None
        self._overtaken = False
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether a chunk is being read."""
        return self._reading is not None

    def stop(self) -> None:
        """Nobody wants what is being read any more."""
        self._stopped = True

    def overtake(self, offset_bytes: int, length_bytes: int) -> None:
        """A write was submitted: what is being read from disk there is old."""
        reading = self._reading
        if reading is not None and offset_bytes < reading[1] * BLOCK_BYTES:
            self._overtaken |= offset_bytes + length_bytes > reading[0] * BLOCK_BYTES

    def read(
        self,
        first: int,
        count: int,
        then: Callable[[memoryview], None],
        failed: Callable[[StoreError], None],
    ) -> None:
        """Read `count` blocks, at most a chunk; `then` has them during its call only."""
        self._reading = (first, first + count)
        data = memoryview(self._buffer)[: count * BLOCK_BYTES]

        def ended(error: StoreError | None) -> None:
            self._reading = None
            if self._stopped:
                return
            if error is not None:
                failed(error)
            elif self._overtaken:
                self.read(first, count, then, failed)
            else:
                then(data)

        def in_order() -> None:
            # Nothing is on its way into the store here: what comes from now on overtakes.
            self._overtaken = False
            self._volume.store.read(first * BLOCK_BYTES, data, ended)

        if self._volume.store.writes_at_once:
            in_order()
        else:
            self._volume.barrier(in_order)
