"""INQUIRY: standard data and the vital product data pages 00, 80, 83, B0, B1, B2.

Owns what initiators learn about a unit's identity and limits (SPC-4, 6.6 and 7.8; SBC-3, 6.6).
Must not vary by session. Fails by raising `SenseError` for pages that don't exist.
"""

from __future__ import annotations

import struct

from targets.lun import LunIdentity
from targets.scsi.cdb import u16
from targets.scsi.command import Command
from targets.scsi.sense import INVALID_FIELD_IN_CDB, SenseError
from targets.scsi.unit import (
    MAX_TRANSFER_BLOCKS,
    MAX_UNMAP_BLOCKS,
    MAX_UNMAP_DESCRIPTORS,
    MAX_WRITE_SAME_BLOCKS,
    Unit,
)

_PHYSICAL_BLOCKS = 8
_OPTIMAL_BLOCKS = (256 << 10) // 512
# SAM-5, SPC-4, SBC-3, iSCSI: none of them at a particular revision.
_VERSIONS = struct.pack(">4H", 0x00A0, 0x0460, 0x04C0, 0x0960)
NO_UNIT = 0x7F
"""Peripheral qualifier 3, type 1F: there is no unit at this LUN, and can't be one."""


def _text(text: str, width: int) -> bytes:
    return text.encode("ascii", "replace")[:width].ljust(width)


def standard_data(identity: LunIdentity | None) -> bytes:
    """The 96 bytes of standard INQUIRY data; None for a LUN without a unit."""
    names = identity or LunIdentity(naa=b"", serial="")
    return b"".join(
        (
            bytes((0 if identity else NO_UNIT, 0, 0x06, 0x12, 91, 0, 0, 0x02)),
            _text(names.vendor, 8),
            _text(names.product, 16),
            _text(names.revision, 4),
            bytes(22),
            _VERSIONS,
            bytes(30),
        )
    )


def _supported(_identity: LunIdentity) -> bytes:
    return bytes(sorted(_PAGES))


def _serial(identity: LunIdentity) -> bytes:
    return identity.serial.encode("ascii", "replace")[:32]


def _device_identification(identity: LunIdentity) -> bytes:
    naa = bytes((0x01, 0x03, 0, len(identity.naa))) + identity.naa
    vendor_id = _text(identity.vendor, 8) + _serial(identity)
    return naa + bytes((0x02, 0x01, 0, len(vendor_id))) + vendor_id


def _block_limits(_identity: LunIdentity) -> bytes:
    return struct.pack(
        ">BBHIIIIIIIQ20x",
        0x01,  # WSNZ: WRITE SAME must name its length
        0,  # no COMPARE AND WRITE
        _PHYSICAL_BLOCKS,
        MAX_TRANSFER_BLOCKS,
        _OPTIMAL_BLOCKS,
        0,
        MAX_UNMAP_BLOCKS,
        MAX_UNMAP_DESCRIPTORS,
        _PHYSICAL_BLOCKS,
        0x80000000,  # UGAVALID: unmap alignment 0
        MAX_WRITE_SAME_BLOCKS,
    )


def _characteristics(_identity: LunIdentity) -> bytes:
    return struct.pack(">H58x", 1)  # non-rotating medium


def _provisioning(_identity: LunIdentity) -> bytes:
    # LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
    return bytes((0, 0xE4, 0x02, 0))


_PAGES = {
    0x00: _supported,
    0x80: _serial,
    0x83: _device_identification,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}


def vital_product_data(identity: LunIdentity, page: int) -> bytes:
    """One VPD page with its header; raises `SenseError` when it isn't supported."""
    build = _PAGES.get(page)
    if build is None:
        raise SenseError(INVALID_FIELD_IN_CDB)
    body = build(identity)
    return struct.pack(">BBH", 0, page, len(body)) + body


def inquiry(unit: Unit | None, command: Command) -> None:
    """INQUIRY; `unit` is None for a LUN that doesn't exist."""
    cdb = command.cdb
    vital, page, allocation_bytes = cdb[1] & 1, cdb[2], u16(cdb, 3)
    if cdb[1] & 0xFE or (not vital and page) or (vital and unit is None):
        raise SenseError(INVALID_FIELD_IN_CDB)
    if vital and unit is not None:
        data = vital_product_data(unit.lu.identity, page)
    else:
        data = standard_data(unit.lu.identity if unit is not None else None)
        if unit is not None:
            # Who asks what this is has no writes under way. A session that is only taken up
            # again doesn't ask.
            unit.looked_at(command.nexus)
    command.answer(data, allocation_bytes)
