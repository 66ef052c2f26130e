"""Command descriptor blocks: opcodes, and the numbers inside their bytes.

Owns the layout of CDBs (SPC-4, SBC-3). Must not decide whether a command is allowed.
Fails never: sixteen bytes always decode.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable

from targets.lun import LOGICAL_BLOCK_BYTES


class Op(enum.IntEnum):
    """Operation codes this device server knows."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    WRITE_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PREFETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    MODE_SELECT_10 = 0x55
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    WRITE_16 = 0x8A
    WRITE_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PREFETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    WRITE_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF


SA_READ_CAPACITY_16 = 0x10
SA_GET_LBA_STATUS = 0x12
SA_REPORT_OPCODES = 0x0C

_lba_length_10 = struct.Struct(">2xIxH").unpack_from
_lba_length_12 = struct.Struct(">2xII").unpack_from
_lba_length_16 = struct.Struct(">2xQI").unpack_from


def _extent_6(cdb: bytes) -> tuple[int, int]:
    return int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256


def _extent_10(cdb: bytes) -> tuple[int, int]:
    lba, blocks = _lba_length_10(cdb)
    return lba, blocks


def _extent_12(cdb: bytes) -> tuple[int, int]:
    lba, blocks = _lba_length_12(cdb)
    return lba, blocks


def _extent_16(cdb: bytes) -> tuple[int, int]:
    lba, blocks = _lba_length_16(cdb)
    return lba, blocks


_BY_GROUP: tuple[Callable[[bytes], tuple[int, int]], ...] = (
    _extent_6,
    _extent_10,
    _extent_10,
    _extent_10,
    _extent_16,
    _extent_12,
    _extent_12,
    _extent_12,
)


def extent(cdb: bytes) -> tuple[int, int]:
    """LBA and number of blocks of a media access command, by the opcode's group."""
    return _BY_GROUP[cdb[0] >> 5](cdb)


def u16(cdb: bytes, at: int) -> int:
    """A big-endian 16-bit field."""
    return cdb[at] << 8 | cdb[at + 1]


def u32(cdb: bytes, at: int) -> int:
    """A big-endian 32-bit field."""
    return int.from_bytes(cdb[at : at + 4], "big")


def _media(cdb: bytes) -> int:
    return extent(cdb)[1] * LOGICAL_BLOCK_BYTES


def _verify(cdb: bytes) -> int:
    byte_check = cdb[1] >> 1 & 3
    if byte_check == 1:
        return _media(cdb)
    return LOGICAL_BLOCK_BYTES if byte_check == 3 else 0


def _write_same_16(cdb: bytes) -> int:
    return 0 if cdb[1] & 1 else LOGICAL_BLOCK_BYTES


def _one_block(_cdb: bytes) -> int:
    return LOGICAL_BLOCK_BYTES


def _byte_4(cdb: bytes) -> int:
    return cdb[4]


def _u16_7(cdb: bytes) -> int:
    return u16(cdb, 7)


_OUT: dict[int, Callable[[bytes], int]] = {
    Op.WRITE_6: _media,
    Op.WRITE_10: _media,
    Op.WRITE_12: _media,
    Op.WRITE_16: _media,
    Op.WRITE_VERIFY_10: _media,
    Op.WRITE_VERIFY_12: _media,
    Op.WRITE_VERIFY_16: _media,
    Op.VERIFY_10: _verify,
    Op.VERIFY_12: _verify,
    Op.VERIFY_16: _verify,
    Op.WRITE_SAME_10: _one_block,
    Op.WRITE_SAME_16: _write_same_16,
    Op.UNMAP: _u16_7,
    Op.MODE_SELECT_6: _byte_4,
    Op.MODE_SELECT_10: _u16_7,
}

MEDIA_READS = frozenset({Op.READ_6, Op.READ_10, Op.READ_12, Op.READ_16})
"""Commands whose data-in lands in the front end's buffers; every other replies with bytes."""

MEDIA_WRITES = frozenset({Op.WRITE_6, Op.WRITE_10, Op.WRITE_12, Op.WRITE_16})
"""Commands whose data-out goes to the medium as it is."""


def data_out_bytes(cdb: bytes) -> int:
    """How much data-out the CDB asks for; 0 for commands without, and for unknown ones."""
    length = _OUT.get(cdb[0])
    return length(cdb) if length is not None else 0


def data_in_bytes(cdb: bytes) -> int:
    """How much room a media read needs; 0 for every other command."""
    return _media(cdb) if cdb[0] in MEDIA_READS else 0
