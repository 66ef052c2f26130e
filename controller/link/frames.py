"""Frames between two controllers: header, checksums, limits (docs/protocol.md).

Owns the bytes. Pure. A frame is 64 bytes of header and up to 1 MiB of payload, both with
CRC32C. Anything that breaks a limit, a checksum or the version raises FrameError, and the
connection ends: there is no resynchronising inside a stream.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from crc32c import crc32c

MAGIC = b"tL"
VERSION = 1
_HEADER = struct.Struct("<2sBBHxx16sQQQII4xI")
"""magic, version, kind, flags, pair id, sequence, offset, length, payload bytes, payload CRC32C,
reserved, CRC32C of the header's first 60 bytes."""
HEADER_BYTES = _HEADER.size
MAX_PAYLOAD_BYTES = 1 << 20
MAX_CONTROL_BYTES = 64 << 10
MAX_DISCARD_BYTES = 128 << 20
NODE = bytes(16)
"""Pair id of frames that concern the two nodes and no pair."""

assert HEADER_BYTES == 64


class FrameError(Exception):
    """The bytes are not a frame of this protocol: the connection is beyond help."""


class Kind(enum.IntEnum):
    """What a frame is. Kinds from CONTROL on are numbered in `sequence` and acknowledged."""

    HELLO = 1
    """JSON, the first frame each way."""
    PING = 2
    PONG = 3
    ACK = 4
    """`sequence`: every numbered frame up to it has been applied."""
    FLUSHED = 5
    """`sequence`: the FLUSH of that number is done; `length` 0, or 1 when it failed."""
    COMPARED = 6
    """`sequence`: the COMPARE of that number is done; `length` 0 with the blocks that differ as
    payload, one bit a block, or 1 when there was no telling."""
    CONTROL = 16
    """JSON, at its place in the order of writes."""
    WRITE = 17
    DISCARD = 18
    FLUSH = 19
    BITMAP = 20
    """Pages of the sender's bitmap (`controller.pair.exchange`)."""
    COMPARE = 21
    """Digests of the sender's blocks, or none where it has a hole: which of yours differ?"""
    INTENT = 22
    """Ranges that will be written soon: a hint for the receiver's write-intent log."""


NUMBERED = frozenset(kind for kind in Kind if kind >= Kind.CONTROL)
FLAG_COPY = 1
"""WRITE, DISCARD, COMPARE: sent by a resync. FLUSH: bits of what it covers may be cleared."""
FLAG_DOUBT = 2
"""BITMAP: these blocks are marked only because a crash may have changed them."""
DIGEST_BYTES = 16
COMPARED_BLOCK_BYTES = 4096
RANGE = struct.Struct("<QQ")
"""INTENT: offset and length in bytes, repeated."""
MAX_RANGES = 4096
MAX_COMPARE_BYTES = 4 << 20
"""Data that one COMPARE with digests covers at most; a hole may be as long as a discard."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A parsed frame. `payload` is a window on the receive buffer, valid during the call."""

    kind: Kind
    flags: int
    pair: bytes
    sequence: int
    offset_bytes: int
    length_bytes: int
    payload: memoryview

    def __str__(self) -> str:
        text = f"{self.kind.name} #{self.sequence}"
        if self.pair != NODE:
            text += f" pair {self.pair.hex()[:8]}"
        if self.kind in (Kind.WRITE, Kind.DISCARD):
            text += f" {self.offset_bytes}+{self.length_bytes}"
        return text + (" copy" if self.flags & FLAG_COPY else "")


def encode_header(
    kind: Kind,
    pair: bytes = NODE,
    *,
    flags: int = 0,
    sequence: int = 0,
    offset_bytes: int = 0,
    length_bytes: int = 0,
    payload: bytes | memoryview = b"",
) -> bytes:
    """The header that goes before `payload`."""
    size = len(payload)
    assert size <= MAX_PAYLOAD_BYTES
    checksum = crc32c(payload) if size else 0
    bare = _HEADER.pack(
        MAGIC, VERSION, kind, flags, pair, sequence, offset_bytes, length_bytes, size, checksum, 0
    )
    return bare[:60] + crc32c(bare[:60]).to_bytes(4, "little")


def parse(buffer: memoryview) -> tuple[Frame, int] | None:
    """The frame at the start of `buffer` and its size in bytes; None when it isn't all there."""
    if len(buffer) < HEADER_BYTES:
        return None
    magic, version, raw_kind, flags, pair, sequence, offset, length, size, checksum, own = (
        _HEADER.unpack_from(buffer)
    )
    if magic != MAGIC:
        raise FrameError("not a trilun link")
    if version != VERSION:
        raise FrameError(f"the peer speaks version {version} of the link, we speak {VERSION}")
    if crc32c(buffer[:60]) != own:
        raise FrameError("header checksum")
    try:
        kind = Kind(raw_kind)
    except ValueError as error:
        raise FrameError(f"unknown frame kind {raw_kind}") from error
    _check_sizes(kind, offset, length, size)
    total = HEADER_BYTES + size
    if len(buffer) < total:
        return None
    payload = buffer[HEADER_BYTES:total]
    if size and crc32c(payload) != checksum:
        raise FrameError(f"payload checksum of {kind.name} #{sequence}")
    return Frame(kind, flags, pair, sequence, offset, length, payload), total


def _check_sizes(kind: Kind, offset: int, length: int, size: int) -> None:
    if size > (MAX_CONTROL_BYTES if kind in (Kind.HELLO, Kind.CONTROL) else MAX_PAYLOAD_BYTES):
        raise FrameError(f"{kind.name} of {size} bytes")
    if kind is Kind.WRITE and (size == 0 or length != size):
        raise FrameError(f"WRITE of {length} bytes with {size} bytes of data")
    if kind is Kind.DISCARD and (size != 0 or not 0 < length <= MAX_DISCARD_BYTES):
        raise FrameError(f"DISCARD of {length} bytes")
    if kind is Kind.INTENT and (size == 0 or size % RANGE.size or size > MAX_RANGES * RANGE.size):
        raise FrameError(f"INTENT of {size} bytes")
    if kind is Kind.COMPARE:
        _check_compare(offset, length, size)
    if offset + length > 1 << 63:
        raise FrameError("offset out of range")


def _check_compare(offset: int, length: int, size: int) -> None:
    whole = length > 0 and not (offset % COMPARED_BLOCK_BYTES or length % COMPARED_BLOCK_BYTES)
    if size:
        fits = length <= MAX_COMPARE_BYTES
        fits = fits and size == length // COMPARED_BLOCK_BYTES * DIGEST_BYTES
    else:
        fits = length <= MAX_DISCARD_BYTES
    if not (whole and fits):
        raise FrameError(f"COMPARE of {length} bytes with {size} bytes of digests")
