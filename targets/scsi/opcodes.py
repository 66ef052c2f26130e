"""REPORT SUPPORTED OPERATION CODES: which commands, and which bits of their CDBs, are evaluated.

Owns the table of CDB usage data (SPC-4, 6.35). Must list every command of `device` and of
`target`; a test compares them. Fails by raising `SenseError`.
"""

from __future__ import annotations

import struct

from targets.scsi.cdb import SA_GET_LBA_STATUS, SA_READ_CAPACITY_16, SA_REPORT_OPCODES, Op, u16, u32
from targets.scsi.command import Command
from targets.scsi.sense import INVALID_FIELD_IN_CDB, SenseError
from targets.scsi.unit import Unit

_LBA4, _LBA8 = "ffffffff", "ffffffffffffffff"


def _ten(flags: str, lba: str = _LBA4) -> str:
    return f"{flags}{lba}1fffff07"


def _twelve(flags: str) -> str:
    return f"{flags}{_LBA4}ffffffff1f07"


def _sixteen(flags: str) -> str:
    return f"{flags}{_LBA8}ffffffff1f07"


_USAGE: dict[tuple[int, int | None], str] = {
    (Op.TEST_UNIT_READY, None): "0000000007",
    (Op.REQUEST_SENSE, None): "010000ff07",
    (Op.READ_6, None): "1fffffff07",
    (Op.WRITE_6, None): "1fffffff07",
    (Op.INQUIRY, None): "01ffffff07",
    (Op.MODE_SELECT_6, None): "110000ff07",
    (Op.MODE_SENSE_6, None): "08ffffff07",
    (Op.START_STOP_UNIT, None): "01000ff707",
    (Op.PREVENT_ALLOW, None): "0000000307",
    (Op.READ_CAPACITY_10, None): "00ffffffff00000107",
    (Op.READ_10, None): _ten("18"),
    (Op.WRITE_10, None): _ten("18"),
    (Op.WRITE_VERIFY_10, None): _ten("16"),
    (Op.VERIFY_10, None): _ten("16"),
    (Op.PREFETCH_10, None): _ten("02"),
    (Op.SYNCHRONIZE_CACHE_10, None): _ten("02"),
    (Op.WRITE_SAME_10, None): _ten("08"),
    (Op.UNMAP, None): "00000000001fffff07",
    (Op.MODE_SELECT_10, None): "110000000000ffff07",
    (Op.MODE_SENSE_10, None): "18ffff000000ffff07",
    (Op.READ_16, None): _sixteen("18"),
    (Op.WRITE_16, None): _sixteen("18"),
    (Op.WRITE_VERIFY_16, None): _sixteen("16"),
    (Op.VERIFY_16, None): _sixteen("16"),
    (Op.PREFETCH_16, None): _sixteen("02"),
    (Op.SYNCHRONIZE_CACHE_16, None): _sixteen("02"),
    (Op.WRITE_SAME_16, None): _sixteen("09"),
    (Op.SERVICE_ACTION_IN_16, SA_READ_CAPACITY_16): f"10{'00' * 8}ffffffff0007",
    (Op.SERVICE_ACTION_IN_16, SA_GET_LBA_STATUS): f"12{_LBA8}ffffffff0007",
    (Op.REPORT_LUNS, None): "00ff000000ffffffff0007",
    (Op.MAINTENANCE_IN, SA_REPORT_OPCODES): "0c87ffffffffffffff0007",
    (Op.READ_12, None): _twelve("18"),
    (Op.WRITE_12, None): _twelve("18"),
    (Op.WRITE_VERIFY_12, None): _twelve("16"),
    (Op.VERIFY_12, None): _twelve("16"),
}

USAGE: dict[tuple[int, int | None], bytes] = {
    (op, action): bytes((op,)) + bytes.fromhex(bits) for (op, action), bits in _USAGE.items()
}
"""CDB usage data by operation code and service action (None where there is none)."""

_TIMEOUTS = bytes.fromhex("000a0000") + bytes(8)


def _all(with_timeouts: bool) -> bytes:
    items = []
    for (op, action), usage in USAGE.items():
        flags = (0x01 if action is not None else 0) | (0x02 if with_timeouts else 0)
        item = struct.pack(">BBHBBH", op, 0, action or 0, 0, flags, len(usage))
        items.append(item + (_TIMEOUTS if with_timeouts else b""))
    body = b"".join(items)
    return struct.pack(">I", len(body)) + body


def _one(op: int, action: int, option: int, with_timeouts: bool) -> bytes:
    has_actions = any(o == op and a is not None for o, a in USAGE)
    # Options 1 and 2 must fit the command; 3 takes both kinds (SPC-4, table 255).
    if (option == 1 and has_actions) or (option == 2 and not has_actions):
        known = any(o == op for o, _ in USAGE)
        if known or option == 1:
            raise SenseError(INVALID_FIELD_IN_CDB)
    usage = USAGE.get((op, action if has_actions else None))
    if usage is None or (option == 3 and not has_actions and action):
        return bytes((0, 0x01, 0, 0))
    flags = 0x03 | (0x80 if with_timeouts else 0)
    answer = struct.pack(">BBH", 0, flags, len(usage)) + usage
    return answer + (_TIMEOUTS if with_timeouts else b"")


def report_supported(_unit: Unit, command: Command) -> None:
    """REPORT SUPPORTED OPERATION CODES; SPC-4, 6.35."""
    cdb = command.cdb
    with_timeouts, option = bool(cdb[2] & 0x80), cdb[2] & 7
    if option == 0:
        data = _all(with_timeouts)
    elif option <= 3:
        data = _one(cdb[3], u16(cdb, 4), option, with_timeouts)
    else:
        raise SenseError(INVALID_FIELD_IN_CDB)
    command.answer(data, u32(cdb, 6))
