"""MODE SENSE and MODE SELECT: caching, control and informational exceptions pages.

Owns the mode parameters (SPC-4, 7.5; SBC-3, 6.5). SWP is the only one that can be changed;
it is volatile and shared by all nexuses. Fails by raising `SenseError`.
"""

from __future__ import annotations

import struct

from targets.lun import LOGICAL_BLOCK_BYTES
from targets.scsi.cdb import Op, u16
from targets.scsi.command import Command
from targets.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    MODE_PARAMETERS_CHANGED,
    PARAMETER_LIST_LENGTH,
    SAVING_NOT_SUPPORTED,
    SenseError,
)
from targets.scsi.unit import Unit

CACHING, CONTROL, EXCEPTIONS, ALL_PAGES = 0x08, 0x0A, 0x1C, 0x3F
_ALL_SUBPAGES = 0xFF
_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)
_SWP = 0x08
_WRITE_PROTECTED, _DPO_FUA = 0x80, 0x10


def _page(code: int, control: int, software_write_protect: bool) -> bytes:
    """One mode page as page control asks for it."""
    length = {CACHING: 18, CONTROL: 10, EXCEPTIONS: 10}[code]
    body = bytearray(length)
    if control == _CHANGEABLE:
        if code == CONTROL:
            body[2] = _SWP
    elif code == CACHING:
        body[0] = 0x04  # WCE: acknowledged writes may be volatile until flushed
    elif code == CONTROL:
        body[1] = 0x10  # unrestricted reordering
        if software_write_protect and control == _CURRENT:
            body[2] = _SWP
        body[6:8] = b"\xff\xff"  # busy timeout period: unlimited
    return bytes((code, length)) + bytes(body)


def _block_descriptor(unit: Unit, long_lba: bool) -> bytes:
    if long_lba:
        return struct.pack(">Q4xI", unit.blocks, LOGICAL_BLOCK_BYTES)
    return struct.pack(">II", min(unit.blocks, 0xFFFFFFFF), LOGICAL_BLOCK_BYTES)


def mode_sense(unit: Unit, command: Command) -> None:
    """MODE SENSE (6), (10); SPC-4, 6.11 and 6.12."""
    cdb = command.cdb
    ten = cdb[0] == Op.MODE_SENSE_10
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if control == _SAVED:
        raise SenseError(SAVING_NOT_SUPPORTED)
    codes = (CACHING, CONTROL, EXCEPTIONS) if code == ALL_PAGES else (code,)
    if code not in {CACHING, CONTROL, EXCEPTIONS, ALL_PAGES} or subpage not in (
        {0, _ALL_SUBPAGES} if code == ALL_PAGES else {0}
    ):
        raise SenseError(INVALID_FIELD_IN_CDB)
    long_lba = ten and bool(cdb[1] & 0x10)
    descriptor = b"" if cdb[1] & 0x08 else _block_descriptor(unit, long_lba)
    pages = b"".join(_page(each, control, unit.software_write_protect) for each in codes)
    device = _DPO_FUA | (_WRITE_PROTECTED if unit.write_protected else 0)
    rest = len(descriptor) + len(pages)
    if ten:
        header = struct.pack(">HBBBBH", rest + 6, 0, device, long_lba, 0, len(descriptor))
    else:
        header = struct.pack(">BBBB", rest + 3, 0, device, len(descriptor))
    command.answer(header + descriptor + pages, u16(cdb, 7) if ten else cdb[4])


def mode_select(unit: Unit, command: Command) -> None:
    """MODE SELECT (6), (10); SPC-4, 6.9 and 6.10. Everything but SWP has to stay as it is."""
    cdb = command.cdb
    ten = cdb[0] == Op.MODE_SELECT_10
    if not cdb[1] & 0x10 or cdb[1] & 0x01:
        raise SenseError(INVALID_FIELD_IN_CDB)
    length = u16(cdb, 7) if ten else cdb[4]
    command.asked_bytes = length
    if length == 0:
        command.good()
        return
    parameters = command.parameter_list()
    header_bytes = 8 if ten else 4
    if len(parameters) < header_bytes:
        raise SenseError(PARAMETER_LIST_LENGTH)
    at = header_bytes + (u16(parameters, 6) if ten else parameters[3])
    protect = _selected(unit, parameters, at)
    if protect != unit.software_write_protect:
        unit.software_write_protect = protect
        unit.attention(MODE_PARAMETERS_CHANGED, but=command.nexus)
    command.good()


def _selected(unit: Unit, parameters: bytes, at: int) -> bool:
    """The SWP the pages ask for; raises `SenseError` when they ask for anything else."""
    protect = unit.software_write_protect
    if at > len(parameters):
        raise SenseError(PARAMETER_LIST_LENGTH)
    while at < len(parameters):
        code = parameters[at] & 0x3F
        if parameters[at] & 0x40 or code not in {CACHING, CONTROL, EXCEPTIONS}:
            raise SenseError(INVALID_FIELD_IN_LIST)
        current = _page(code, _CURRENT, protect)
        changeable = _page(code, _CHANGEABLE, protect)[2:]
        if len(parameters) < at + len(current):
            raise SenseError(PARAMETER_LIST_LENGTH)
        if parameters[at + 1] != len(current) - 2:
            raise SenseError(INVALID_FIELD_IN_LIST)
        asked = parameters[at + 2 : at + len(current)]
        for new, old, mask in zip(asked, current[2:], changeable, strict=True):
            if (new ^ old) & ~mask:
                raise SenseError(INVALID_FIELD_IN_LIST)
        if code == CONTROL:
            protect = bool(asked[2] & _SWP)
        at += len(current)
    return protect
