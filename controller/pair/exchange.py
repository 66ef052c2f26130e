"""Bitmaps on the wire: pages packed and compressed into frames.

Owns the layout of a BITMAP frame's payload (docs/protocol.md). Pure. Limits are checked by
writer and reader; a payload that breaks one raises ExchangeError.

    u32 page number, u16 compressed length, zlib data of PAGE_BYTES bytes; repeated
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from controller.volume.bitmap import PAGE_BYTES, DirtyBitmap

_ENTRY = struct.Struct("<IH")
MAX_PAYLOAD_BYTES = 128 << 10
_MAX_ENTRY_BYTES = PAGE_BYTES + 64


class ExchangeError(Exception):
    """The payload isn't a part of a bitmap of this size."""


def encode(bitmap: DirtyBitmap) -> Iterator[bytes]:
    """The payloads that carry a whole bitmap; nothing for a clean one."""
    part = bytearray()
    for page in bitmap.used_pages():
        data = zlib.compress(bitmap.page(page).to_bytes(PAGE_BYTES, "little"), 1)
        assert len(data) <= _MAX_ENTRY_BYTES
        if len(part) + _ENTRY.size + len(data) > MAX_PAYLOAD_BYTES:
            yield bytes(part)
            part.clear()
        part += _ENTRY.pack(page, len(data)) + data
    if part:
        yield bytes(part)


def merge(bitmap: DirtyBitmap, payload: bytes | memoryview) -> None:
    """Mark what a payload marks."""
    at = 0
    while at < len(payload):
        if at + _ENTRY.size > len(payload):
            raise ExchangeError("cut entry")
        page, length = _ENTRY.unpack_from(payload, at)
        at += _ENTRY.size
        if page >= bitmap.page_count or length > _MAX_ENTRY_BYTES or at + length > len(payload):
            raise ExchangeError(f"page {page} with {length} bytes")
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(bytes(payload[at : at + length]), PAGE_BYTES + 1)
        except zlib.error as error:
            raise ExchangeError(str(error)) from error
        if len(data) != PAGE_BYTES or not unpacker.eof:
            raise ExchangeError(f"page {page} is not {PAGE_BYTES} bytes")
        bitmap.merge_page(page, int.from_bytes(data, "little"))
        at += length
