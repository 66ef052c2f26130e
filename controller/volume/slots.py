"""A small record that is replaced whole: a ring of checksummed slots in a block store.

Owns the slot format (docs/formats.md, "Slot ring"). Each commit writes the whole record into
the next slot and flushes, so a torn commit leaves its predecessor in force. Where a damaged slot
must not bring its predecessor back, each record is written twice. Must not know what
the record means. Fails with CorruptError when no slot is valid but something is there, and with
StoreError when the store does; after a failed commit the ring takes no more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crc32c import crc32c

from controller.volume.store import BlockStore, JoinedDone, StoreDone, StoreError, finished

_HEADER = struct.Struct("<8sHHIQI")
"""magic, version, reserved, payload length, sequence, CRC32C of header (this field 0) + payload."""
HEADER_BYTES = _HEADER.size
VERSION = 1
SECTOR_BYTES = 512


class CorruptError(Exception):
    """What is on disk is neither empty nor ours; it is refused, never read as clean."""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """Where a ring lies in its store. `magic` is 8 bytes and tells kinds of rings apart.

    Checksums begin with `seed`, so a slot of another ring of the same kind isn't valid here.
    With `copies` 2 the ring is there twice, one behind the other, and each commit goes to both.
    """

    magic: bytes
    slot_bytes: int
    slots: int
    offset_bytes: int = 0
    seed: int = 0
    copies: int = 1

    @property
    def ring_bytes(self) -> int:
        """Room the ring takes, with its copies."""
        return self.slot_bytes * self.slots * self.copies

    @property
    def max_payload_bytes(self) -> int:
        """The longest record that fits."""
        return self.slot_bytes - HEADER_BYTES


def encode_slot(layout: SlotLayout, sequence: int, payload: bytes) -> bytes:
    """One slot as it is written: header, payload, zeros up to a whole sector.

    What an earlier, longer record left behind that is not covered by the length and ignored.
    """
    assert len(layout.magic) == 8
    assert len(payload) <= layout.max_payload_bytes
    bare = _HEADER.pack(layout.magic, VERSION, 0, len(payload), sequence, 0)
    checksum = crc32c(payload, crc32c(bare, layout.seed))
    header = _HEADER.pack(layout.magic, VERSION, 0, len(payload), sequence, checksum)
    used_bytes = HEADER_BYTES + len(payload)
    return (header + payload).ljust(-(-used_bytes // SECTOR_BYTES) * SECTOR_BYTES, b"\0")


def decode_slot(layout: SlotLayout, raw: bytes | memoryview) -> tuple[int, bytes] | None:
    """Sequence and payload of a slot; None when it is empty, torn or foreign."""
    magic, version, reserved, length, sequence, checksum = _HEADER.unpack_from(raw)
    if magic != layout.magic or version != VERSION or length > layout.max_payload_bytes:
        return None
    payload = bytes(raw[HEADER_BYTES : HEADER_BYTES + length])
    bare = _HEADER.pack(magic, version, reserved, length, sequence, 0)
    if crc32c(payload, crc32c(bare, layout.seed)) != checksum:
        return None
    return sequence, payload


def newest_slot(layout: SlotLayout, ring: bytes | memoryview) -> tuple[int, bytes] | None:
    """Sequence and payload of the record in force; None when no slot is valid.

    Of a ring with copies also when both copies of a newer record may be damaged: the place of the
    next record has to show, in one copy, what it held before.
    """
    window = memoryview(ring)
    found = [
        slot
        for at in range(0, layout.ring_bytes, layout.slot_bytes)
        if (slot := decode_slot(layout, window[at : at + layout.slot_bytes])) is not None
    ]
    newest = max(found, default=None)
    if newest is None or layout.copies == 1:
        return newest
    before = newest[0] + 1 - layout.slots
    if any(sequence == before for sequence, _ in found):
        return newest
    copy_bytes = layout.slots * layout.slot_bytes
    places = [
        window[at : at + layout.slot_bytes].tobytes()
        for at in range(
            (newest[0] + 1) % layout.slots * layout.slot_bytes, layout.ring_bytes, copy_bytes
        )
    ]
    return newest if before < 1 and bytes(layout.slot_bytes) in places else None


class SlotRing:
    """The ring at work. One commit at a time; the caller batches."""

    def __init__(self, store: BlockStore, layout: SlotLayout, *, after: int = 0) -> None:
        self._store = store
        self._layout = layout
        self._sequence = after
        self._committing = False
        self._failed: StoreError | None = None

    @property
    def sequence(self) -> int:
        """Number of the newest record; what is committed next has the next one."""
        return self._sequence

    def fits(self, payload: bytes) -> bool:
        """Whether a record can be committed."""
        return len(payload) <= self._layout.max_payload_bytes

    async def load(self) -> bytes | None:
        """The newest valid record, or None when nothing was ever written."""
        raw = bytearray(self._layout.ring_bytes)
        window = memoryview(raw)
        await finished(lambda done: self._store.read(self._layout.offset_bytes, window, done))
        found = newest_slot(self._layout, window)
        if found is None:
            if raw.count(0) != len(raw):
                raise CorruptError(f"no valid {self._layout.magic.decode()} record")
            return None
        self._sequence, payload = found
        return payload

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def commit(self, payload: bytes, done: StoreDone) -> None:
        """Replace the record; durable when `done` runs without an error."""
        assert not self._committing
        if self._failed is not None:
            done(self._failed)
            return
        self._committing = True
        self._sequence += 1
        layout = self._layout
        raw = encode_slot(layout, self._sequence, payload)
        at = layout.offset_bytes + self._sequence % layout.slots * layout.slot_bytes

        def ended(error: StoreError | None) -> None:
            self._committing = False
            self._failed = error
            done(error)

        def written(error: StoreError | None) -> None:
            if error is None:
                self._store.flush(ended)
            else:
                ended(error)

        joined = JoinedDone(layout.copies, written)
        for copy in range(layout.copies):
            offset_bytes = at + copy * layout.slots * layout.slot_bytes
            self._store.write(offset_bytes, memoryview(raw), joined.part)
