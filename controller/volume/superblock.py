"""A volume's metadata file: two superblock copies, then the ring of write-intent transactions.

Owns the superblock's format (docs/formats.md, "Metadata of a volume") and the rule for believing
a file: it is this volume's, of this size, not older than the catalogue noted. Pure: it is handed
bytes. Fails with CorruptError; who gets one takes everything as dirty.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from crc32c import crc32c

from controller.volume.intent import MAX_HOT_EXTENTS, IntentRecord, record_bytes
from controller.volume.slots import HEADER_BYTES, CorruptError, SlotLayout, newest_slot

SUPERBLOCKS = SlotLayout(b"trilunSB", slot_bytes=4096, slots=2)
RING_OFFSET_BYTES = SUPERBLOCKS.ring_bytes
_PAGE_BYTES = 4096
_COPIES = 2
_MIN_SLOTS, _MAX_SLOTS = 2, 8
_LONGEST_SLOT_BYTES = (
    -(-(HEADER_BYTES + record_bytes(MAX_HOT_EXTENTS)) // _PAGE_BYTES) * _PAGE_BYTES
)
FILE_BYTES = RING_OFFSET_BYTES + _COPIES * _MIN_SLOTS * _LONGEST_SLOT_BYTES
"""The same for every volume and setting, so that a new setting needs no new file."""

_PAYLOAD = struct.Struct("<16sQQIIQII")
"""volume id, its bytes, ring epoch, extent bytes, hot extents, ring's offset, slot bytes, slots."""


@dataclass(frozen=True, slots=True)
class IntentSettings:
    """How a write-intent log is cut."""

    extent_bytes: int
    hot_extents: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """Whose file it is, and where its ring lies. `ring_epoch` is new with each new ring."""

    volume_id: bytes
    size_bytes: int
    ring_epoch: int
    extent_bytes: int
    hot_extents: int
    ring_offset_bytes: int
    slot_bytes: int
    slots: int

    @classmethod
    def plan(
        cls, volume_id: bytes, size_bytes: int, ring_epoch: int, settings: IntentSettings
    ) -> Superblock:
        """The superblock of a new ring."""
        assert len(volume_id) == 16
        assert 0 < settings.hot_extents <= MAX_HOT_EXTENTS
        used_bytes = HEADER_BYTES + record_bytes(settings.hot_extents)
        slot_bytes = -(-used_bytes // _PAGE_BYTES) * _PAGE_BYTES
        room = (FILE_BYTES - RING_OFFSET_BYTES) // (_COPIES * slot_bytes)
        return cls(
            volume_id,
            size_bytes,
            ring_epoch,
            settings.extent_bytes,
            settings.hot_extents,
            RING_OFFSET_BYTES,
            slot_bytes,
            min(room, _MAX_SLOTS),
        )

    @property
    def settings(self) -> IntentSettings:
        """How the log is cut."""
        return IntentSettings(self.extent_bytes, self.hot_extents)

    @property
    def ring(self) -> SlotLayout:
        """Where the ring lies. Its slots are valid for this volume and this epoch only."""
        seed = crc32c(self.volume_id + self.ring_epoch.to_bytes(8, "little"))
        return SlotLayout(
            b"trilunIL", self.slot_bytes, self.slots, self.ring_offset_bytes, seed, _COPIES
        )

    def encode(self) -> bytes:
        """The payload of a superblock slot."""
        return _PAYLOAD.pack(
            self.volume_id,
            self.size_bytes,
            self.ring_epoch,
            self.extent_bytes,
            self.hot_extents,
            self.ring_offset_bytes,
            self.slot_bytes,
            self.slots,
        )

    @classmethod
    def decode(cls, payload: bytes) -> Superblock:
        """Parse a payload; CorruptError when it breaks a limit."""
        if len(payload) != _PAYLOAD.size:
            raise CorruptError("superblock of the wrong length")
        found = cls(*_PAYLOAD.unpack(payload))
        if not (found.extent_bytes >= _PAGE_BYTES and 0 < found.hot_extents <= MAX_HOT_EXTENTS):
            raise CorruptError("superblock with impossible extents")
        if (
            found.slot_bytes < HEADER_BYTES + record_bytes(found.hot_extents)
            or not _MIN_SLOTS <= found.slots <= _MAX_SLOTS
            or found.ring_offset_bytes < RING_OFFSET_BYTES
            or found.ring_offset_bytes + found.ring.ring_bytes > FILE_BYTES
        ):
            raise CorruptError("superblock with an impossible ring")
        return found

    def record(self, payload: bytes) -> IntentRecord:
        """Parse a record of its ring; CorruptError when it doesn't fit the volume."""
        found = IntentRecord.decode(payload)
        if found.extent_bytes != self.extent_bytes or len(found.extents) > self.hot_extents:
            raise CorruptError("intent record of another setting")
        if found.extents and max(found.extents) * self.extent_bytes >= self.size_bytes:
            raise CorruptError("intent record beyond the end of the volume")
        return found


@dataclass(frozen=True, slots=True)
class Identity:
    """What a volume's file has to say to be believed."""

    volume_id: bytes
    size_bytes: int
    generation: int
    """The catalogue's note: an older file is of the past."""

    def believe(self, generation: int, payload: bytes) -> Superblock:
        """The superblock in force; CorruptError when it isn't this volume's, or is stale."""
        found = Superblock.decode(payload)
        if found.volume_id != self.volume_id:
            raise CorruptError(f"this is the metadata of volume {found.volume_id.hex()}")
        if found.size_bytes != self.size_bytes:
            raise CorruptError(f"this is the metadata of a volume of {found.size_bytes} bytes")
        if generation < self.generation:
            raise CorruptError(
                f"this metadata is old: generation {generation}, not {self.generation}"
            )
        return found


def read_image(
    raw: bytes | bytearray | memoryview,
    identity: Identity,
    newest: Callable[[SlotLayout, memoryview], tuple[int, bytes] | None] = newest_slot,
) -> IntentRecord | None:
    """What a whole file says was hot; None when it can't be believed: then everything was."""
    window = memoryview(raw)
    if len(window) != FILE_BYTES:
        return None
    try:
        found = newest(SUPERBLOCKS, window[: SUPERBLOCKS.ring_bytes])
        if found is None:
            return None
        superblock = identity.believe(*found)
        ring = superblock.ring
        record = newest(ring, window[ring.offset_bytes : ring.offset_bytes + ring.ring_bytes])
        return None if record is None else superblock.record(record[1])
    except CorruptError:
        return None
