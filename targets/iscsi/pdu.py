"""iSCSI PDUs: the basic header segment's layout, opcodes, flags and digests (RFC 7143, 11).

Owns bytes on the wire. Must not know sessions or negotiation. Every header is 48 bytes of one
shape, so one codec serves all: fourteen numbers, of which the last eight mean what the
opcode says. Fails with `ProtocolError`.
"""

from __future__ import annotations

import enum
import struct
from typing import Any

import crc32c

BHS_BYTES = 48
DIGEST_BYTES = 4
MAX_AHS_BYTES = 255 * 4
NO_TAG = 0xFFFFFFFF
FINAL = 0x80
IMMEDIATE = 0x40
READ_FLAG = 0x40
WRITE_FLAG = 0x20
CONTINUE = 0x40
OVERFLOW = 0x04
UNDERFLOW = 0x02
STATUS_FLAG = 0x01

BHS = struct.Struct(">BBBBIQ8I")
"""opcode, flags, byte 2, byte 3, AHS length and data length, LUN, then 8 words from byte 16."""

Header = tuple[Any, ...]
"""A BHS unpacked: (opcode, flags, byte 2, byte 3, lengths, LUN, word 0 … word 7)."""

_DIGEST = struct.Struct("<I")


class Opcode(enum.IntEnum):
    """Opcodes of both directions (RFC 7143, 11.2.1.2)."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT = 0x02
    LOGIN = 0x03
    TEXT = 0x04
    DATA_OUT = 0x05
    LOGOUT = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC = 0x32
    REJECT = 0x3F


class RejectReason(enum.IntEnum):
    """Why a PDU is rejected (RFC 7143, 11.17.1)."""

    DATA_DIGEST = 0x02
    SNACK = 0x03
    PROTOCOL = 0x04
    NOT_SUPPORTED = 0x05
    IMMEDIATE = 0x06
    INVALID_FIELD = 0x09


class AsyncEvent(enum.IntEnum):
    """Asynchronous events (RFC 7143, 11.9.1)."""

    LOGOUT_REQUEST = 1
    WILL_DROP_CONNECTION = 2


class ProtocolError(Exception):
    """The peer broke the protocol; at error recovery level 0 the connection ends with it.

    `reason` is set when a REJECT goes out first.
    """

    def __init__(self, detail: str, reason: RejectReason | None = None) -> None:
        super().__init__(detail)
        self.reason = reason


def pad(length_bytes: int) -> int:
    """Bytes of padding after a segment of `length_bytes`."""
    return -length_bytes & 3


def digest(*parts: bytes | memoryview) -> bytes:
    """CRC32C over the parts as it travels (RFC 7143, 13.1)."""
    value = 0
    for part in parts:
        value = crc32c.crc32c(part, value)
    return _DIGEST.pack(value)


def serial_distance(a: int, b: int) -> int:
    """a − b in 32-bit serial number arithmetic (RFC 1982), from −2³¹ to 2³¹−1."""
    return (a - b + 0x80000000 & 0xFFFFFFFF) - 0x80000000
