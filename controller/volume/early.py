"""The image of a quick split's instant, while it is still being copied (ARCHITECTURE.md).

Owns where each block of it is: on the P-VOL's store as long as it is held there, on the S-VOL's
from then on. Never written. Must not know when a copy goes on or ends: what is held is handed in
and changes under it. Fails with StoreError where a block was held when the copy was given up:
from then on nobody keeps that block as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.volume.bitmap import DirtyBitmap, block_range, stretches
from controller.volume.store import BlockStore, JoinedDone, StoreDone, StoreError, StoreFault

_GIVEN_UP = StoreError(StoreFault.IO, "the quick split behind this view was given up")


class EarlyImage:
    """`old`, the P-VOL's store, where `held` is set; `new`, the S-VOL's, elsewhere."""

    def __init__(
        self, old: BlockStore, new: BlockStore, held: DirtyBitmap, stands: Callable[[], bool]
    ) -> None:
        assert old.size_bytes == new.size_bytes
        self._old = old
        self._new = new
        self._held = held
        self._stands = stands
        """Whether no write reaches what is held."""

    @property
    def size_bytes(self) -> int:
        """Capacity, the same of both."""
        return self._new.size_bytes

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        """Read each stretch of blocks from where it is now."""
        parts = stretches(self._held, offset_bytes, len(into))
        joined = JoinedDone(len(parts), done)
        for start, end, held in parts:
            window = into[start - offset_bytes : end - offset_bytes]
            if held:
                self._read_held(start, window, joined.part)
            else:
                self._new.read(start, window, joined.part)

    def _read_held(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        if not self._stands():
            done(_GIVEN_UP)
            return
        first, count = block_range(offset_bytes, len(into))

        def ended(error: StoreError | None) -> None:
            if error is not None:
                done(error)
            elif self._held.count_in(first, count) < count:
                # Some of it was copied while the disk was being read, and may have been
                # overwritten since: that is on the S-VOL now.
                self.read(offset_bytes, into, done)
            else:
                done(None if self._stands() else _GIVEN_UP)

        self._old.read(offset_bytes, into, ended)
