"""A throw-away copy-on-write overlay: writes go beside the base, never into it (law L13).

Owns the overlay's own store and the map of blocks that live there. The base must not change
while the overlay is open; who opens it sees to that. Nothing here is durable by intent: a view
that is lost is opened again. Fails as the two stores beneath do.
"""

from __future__ import annotations

from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, block_range, stretches
from controller.volume.store import BlockStore, Image, JoinedDone, StoreDone, StoreError


class OverlayStore:
    """`base` seen through the blocks that were written to `delta`, a store of the same size."""

    def __init__(self, base: Image, delta: BlockStore) -> None:
        assert base.size_bytes == delta.size_bytes
        self._base = base
        self._delta = delta
        self._written = DirtyBitmap(base.size_bytes // BLOCK_BYTES)

    @property
    def size_bytes(self) -> int:
        """Capacity, the base's."""
        return self._base.size_bytes

    @property
    def writes_at_once(self) -> bool:
        """A partly written block may have to be read from the base first."""
        return False

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        """Read each stretch of blocks from where it lives."""
        parts = stretches(self._written, offset_bytes, len(into))
        joined = JoinedDone(len(parts), done)
        for start, end, written in parts:
            store: Image = self._delta if written else self._base
            store.read(start, into[start - offset_bytes : end - offset_bytes], joined.part)

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        """Fill partly touched blocks from the base, then write to the delta."""
        first, count = block_range(offset_bytes, len(data))
        head_bytes = offset_bytes - first * BLOCK_BYTES
        tail_bytes = (first + count) * BLOCK_BYTES - offset_bytes - len(data)
        edges = set()
        if head_bytes and not self._written.test(first):
            edges.add(first)
        if tail_bytes and not self._written.test(first + count - 1):
            edges.add(first + count - 1)

        def filled(error: StoreError | None) -> None:
            if error is not None:
                done(error)
                return
            self._written.set(first, count)
            self._delta.write(offset_bytes, data, done)

        joined = JoinedDone(len(edges) + 1, filled)
        for block in edges:
            self._copy_up(block, joined.part)
        joined.part(None)

    def _copy_up(self, block: int, done: StoreDone) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))

        def read(error: StoreError | None) -> None:
            if error is not None:
                done(error)
            elif self._written.test(block):
                # Another write got there first; its block is the newer one.
                done(None)
            else:
                self._written.set(block, 1)
                self._delta.write(block * BLOCK_BYTES, buffer, done)

        self._base.read(block * BLOCK_BYTES, buffer, read)

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        """Whole blocks become holes of the delta; partly touched ones are written with zeros."""
        first = -(-offset_bytes // BLOCK_BYTES)
        end = (offset_bytes + length_bytes) // BLOCK_BYTES
        if end <= first:
            self.write(offset_bytes, memoryview(bytes(length_bytes)), done)
            return
        head_bytes = first * BLOCK_BYTES - offset_bytes
        tail_offset = end * BLOCK_BYTES
        tail_bytes = offset_bytes + length_bytes - tail_offset
        joined = JoinedDone(1 + bool(head_bytes) + bool(tail_bytes), done)
        if head_bytes:
            self.write(offset_bytes, memoryview(bytes(head_bytes)), joined.part)
        if tail_bytes:
            self.write(tail_offset, memoryview(bytes(tail_bytes)), joined.part)
        self._written.set(first, end - first)
        self._delta.discard(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES, joined.part)

    def flush(self, done: StoreDone) -> None:
        """Flush the delta; the base isn't written."""
        self._delta.flush(done)

    def next_data(self, offset_bytes: int) -> int | None:
        """No hint: views are never a source of a copy."""
        return offset_bytes

    def next_hole(self, offset_bytes: int) -> int:  # noqa: ARG002
        """No hint either."""
        return self.size_bytes

    def allocated_bytes(self) -> int:
        """What the view itself takes."""
        return self._delta.allocated_bytes()

    def close(self) -> None:
        """Close the delta; the base belongs to its volume."""
        self._delta.close()
