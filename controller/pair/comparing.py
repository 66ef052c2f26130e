"""Comparing by digest: which blocks of a range differ from the other side's.

Owns the digests and the target's half of a comparison. A comparison takes place at its place in
the stream: behind every write before it, so that "equal" means equal to what the source held when
it asked. Where the read had to wait and a write may have overtaken it there is no telling, and
the source asks again or copies. A block that can't be read differs.
"""

from __future__ import annotations

from hashlib import blake2b

from controller.link.channel import Compared
from controller.link.frames import DIGEST_BYTES
from controller.volume.bitmap import BLOCK_BYTES
from controller.volume.store import StoreError
from controller.volume.volume import Volume


def digests_of(data: memoryview) -> bytes:
    """BLAKE2b (RFC 7693) of each 4 KiB block, cut to 16 bytes each, one behind the other."""
    return b"".join(
        blake2b(data[at : at + BLOCK_BYTES], digest_size=DIGEST_BYTES).digest()
        for at in range(0, len(data), BLOCK_BYTES)
    )


def differing(digests: bytes, others: bytes) -> int:
    """The blocks whose digests differ; bit n is block n."""
    if digests == others:
        return 0
    bits = 0
    for block, at in enumerate(range(0, len(digests), DIGEST_BYTES)):
        if digests[at : at + DIGEST_BYTES] != others[at : at + DIGEST_BYTES]:
            bits |= 1 << block
    return bits


class _Comparison:
    """One that is under way."""

    __slots__ = ("end_bytes", "offset_bytes", "overtaken")

    def __init__(self, offset_bytes: int, end_bytes: int) -> None:
        self.offset_bytes = offset_bytes
        self.end_bytes = end_bytes
        self.overtaken = False


class Comparer:
    """The target's half."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._running: list[_Comparison] = []

    def overtake(self, offset_bytes: int, length_bytes: int) -> None:
        """A write has arrived: what is still being read there may be too new."""
        for comparison in self._running:
            if offset_bytes < comparison.end_bytes:
                comparison.overtaken |= offset_bytes + length_bytes > comparison.offset_bytes

    def compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, answer: Compared
    ) -> None:
        """Compare a range, behind every write that came before."""
        store = self._volume.store
        comparison = _Comparison(offset_bytes, offset_bytes + length_bytes)
        self._running.append(comparison)

        def ended(bits: int | None) -> None:
            self._running.remove(comparison)
            answer(bits)

        def in_order() -> None:
            if not digests:
                data_at = store.next_data(offset_bytes)
                hole = data_at is None or data_at >= offset_bytes + length_bytes
                ended(0 if hole else None)
                return
            at_once = True
            data = memoryview(bytearray(length_bytes))

            def read(error: StoreError | None) -> None:
                if error is not None:
                    ended((1 << length_bytes // BLOCK_BYTES) - 1)
                elif comparison.overtaken and not at_once:
                    ended(None)
                else:
                    ended(differing(digests_of(data), digests))

            store.read(offset_bytes, data, read)
            at_once = False

        self._volume.barrier(in_order)
