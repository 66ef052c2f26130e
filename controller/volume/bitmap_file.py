"""A dirty bitmap's place on disk: a header block and one checksummed 4 KiB page for 126 MiB.

Owns the bitmap file format (docs/formats.md, "Bitmap file"). Must not decide when a bit is set
or cleared. Every page is written when the file is made, so that one that is torn, foreign or gone
is known for it, and read as all dirty; a header that is not ours raises CorruptError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from crc32c import crc32c

from controller.volume.bitmap import PAGE_BITS, PAGE_BYTES, DirtyBitmap
from controller.volume.slots import CorruptError
from controller.volume.store import BlockStore, StoreDone, StoreError, finished

_MAGIC = b"trilunBM"
_PAGE_MAGIC = b"trBP"
_VERSION = 1
_HEADER = struct.Struct("<8sHHIQ16sI")
"""magic, version, reserved, block bytes, blocks, pair id, CRC32C of the fields before."""
_PAGE = struct.Struct("<4sIQ16sI")
"""magic, reserved, page number, pair id, CRC32C of the fields before and the bits."""
PAGE_HEADER_BYTES = 64
SLOT_BYTES = PAGE_HEADER_BYTES + PAGE_BYTES
_PAGES_AT_ONCE = 128


def file_bytes(blocks: int) -> int:
    """Size of the file for a volume of `blocks` blocks."""
    return SLOT_BYTES * (1 + -(-blocks // PAGE_BITS))


def encode_header(blocks: int, pair_id: bytes) -> bytes:
    """The first 4 KiB."""
    bare = _HEADER.pack(_MAGIC, _VERSION, 0, 4096, blocks, pair_id, 0)[:-4]
    return (bare + struct.pack("<I", crc32c(bare))).ljust(SLOT_BYTES, b"\0")


def encode_page(page: int, bits: int, pair_id: bytes) -> bytes:
    """One page as it is written."""
    payload = bits.to_bytes(PAGE_BYTES, "little")
    bare = _PAGE.pack(_PAGE_MAGIC, 0, page, pair_id, 0)[:-4]
    head = bare + struct.pack("<I", crc32c(payload, crc32c(bare)))
    return head.ljust(PAGE_HEADER_BYTES, b"\0") + payload


def decode_page(raw: memoryview, page: int, pair_id: bytes) -> int | None:
    """The bits of a page; None for one that is torn, foreign or empty."""
    bare = bytes(raw[: _PAGE.size - 4])
    payload = bytes(raw[PAGE_HEADER_BYTES:SLOT_BYTES])
    (checksum,) = struct.unpack_from("<I", raw, _PAGE.size - 4)
    expected = _PAGE.pack(_PAGE_MAGIC, 0, page, pair_id, 0)[:-4]
    if bare != expected or crc32c(payload, crc32c(bare)) != checksum:
        return None
    return int.from_bytes(payload, "little")


class BitmapFile:
    """Loads and saves one bitmap. Saves are serial: the next takes what changed meanwhile."""

    def __init__(self, store: BlockStore, bitmap: DirtyBitmap, pair_id: bytes) -> None:
        assert len(pair_id) == 16
        assert store.size_bytes == file_bytes(bitmap.blocks)
        self._store = store
        self._bitmap = bitmap
        self._pair_id = pair_id
        self._saving = False
        self._waiters: list[StoreDone] = []
        self._failed: StoreError | None = None

    async def create(self) -> None:
        """Lay out a new file, or one that can't be read: the bitmap as it is now.

        The header comes last. Until it is right the file is read as all dirty.
        """
        bitmap = self._bitmap
        bitmap.changed.clear()
        for first in range(0, bitmap.page_count, _PAGES_AT_ONCE):
            pages = range(first, min(first + _PAGES_AT_ONCE, bitmap.page_count))
            raw = b"".join(encode_page(page, bitmap.page(page), self._pair_id) for page in pages)
            await self._write(SLOT_BYTES * (1 + first), raw)
        await finished(self._store.flush)
        await self._write(0, encode_header(bitmap.blocks, self._pair_id))
        await finished(self._store.flush)

    async def _write(self, offset_bytes: int, raw: bytes) -> None:
        await finished(lambda done: self._store.write(offset_bytes, memoryview(raw), done))

    async def load(self, on_corrupt: Callable[[int], None]) -> None:
        """Fill the bitmap; `on_corrupt` is told each page that had to be taken as all dirty."""
        bitmap = self._bitmap
        if bytes(await self._read(0, 1)) != encode_header(bitmap.blocks, self._pair_id):
            raise CorruptError("this is not the bitmap file of this pair and volume size")
        for first in range(0, bitmap.page_count, _PAGES_AT_ONCE):
            count = min(_PAGES_AT_ONCE, bitmap.page_count - first)
            raw = await self._read(1 + first, count)
            for page in range(first, first + count):
                at = SLOT_BYTES * (page - first)
                bits = decode_page(raw[at : at + SLOT_BYTES], page, self._pair_id)
                if bits is None:
                    on_corrupt(page)
                    bits = (1 << PAGE_BITS) - 1
                if bits:
                    bitmap.merge_page(page, bits)
        bitmap.changed.clear()

    async def _read(self, first_slot: int, count: int) -> memoryview:
        raw = memoryview(bytearray(SLOT_BYTES * count))
        await finished(lambda done: self._store.read(SLOT_BYTES * first_slot, raw, done))
        return raw

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def save(self, done: StoreDone) -> None:
        """Make the bitmap durable as it is now (or later)."""
        self._waiters.append(done)
        if not self._saving:
            self._start()

    def _start(self) -> None:
        waiters, self._waiters = self._waiters, []
        pages = sorted(self._bitmap.changed)
        self._bitmap.changed.clear()
        self._saving = True
        left = len(pages) + 1

        def ended(error: StoreError | None) -> None:
            self._saving = False
            if error is not None:
                # What is on disk is unknown from here on: keep every page to be saved.
                self._failed = error
                self._bitmap.changed.update(pages)
            for waiter in waiters:
                waiter(error)
            if self._waiters and not self._saving:
                self._start()

        def written(error: StoreError | None) -> None:
            nonlocal left
            left -= 1
            self._failed = self._failed or error
            if left:
                return
            if self._failed is not None:
                ended(self._failed)
            elif pages:
                self._store.flush(ended)
            else:
                ended(None)

        for page in pages:
            raw = memoryview(encode_page(page, self._bitmap.page(page), self._pair_id))
            self._store.write(SLOT_BYTES * (1 + page), raw, written)
        written(None)
