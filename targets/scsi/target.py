"""A target device with several logical units: LUN addressing, REPORT LUNS, the LUN that isn't.

Owns the map from LUN to device server. Must not know sessions. Fails by ending the command
with sense data.
"""

from __future__ import annotations

from collections.abc import Mapping

from targets.lun import LogicalUnit
from targets.scsi.cdb import Op, u32
from targets.scsi.command import Command
from targets.scsi.device import DeviceServer
from targets.scsi.inquiry import inquiry
from targets.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    LUN_NOT_SUPPORTED,
    SenseError,
    fixed_format,
)

MAX_LUNS = 256


def decode_lun(field: int) -> int | None:
    """The LUN in a 64-bit LUN field: single level, peripheral or flat space (SAM-5, 4.7)."""
    first = field >> 48
    if field & 0xFFFF_FFFF_FFFF or first >> 14 > 1:
        return None
    if first >> 14 == 0 and first > 0xFF:
        return None
    return first & 0x3FFF


def encode_lun(lun: int) -> int:
    """The 64-bit LUN field for a LUN below 256, peripheral device addressing."""
    assert 0 <= lun < MAX_LUNS
    return lun << 48


class ScsiTarget:
    """The logical units behind one target port."""

    def __init__(self, luns: Mapping[int, LogicalUnit]) -> None:
        if any(not 0 <= lun < MAX_LUNS for lun in luns):
            raise ValueError(f"LUNs are numbers from 0 to {MAX_LUNS - 1}")
        self.servers: dict[int, DeviceServer] = {n: DeviceServer(lu) for n, lu in luns.items()}
        # By the field as it stands in a PDU, so that the hot path has nothing to decode.
        self.by_field: dict[int, DeviceServer] = {
            encode_lun(n): server for n, server in self.servers.items()
        }

    def find(self, field: int) -> DeviceServer | None:
        """The device server a LUN field addresses."""
        server = self.by_field.get(field)
        if server is None:
            lun = decode_lun(field)
            server = self.servers.get(lun) if lun is not None else None
        return server

    def submit(self, server: DeviceServer | None, command: Command) -> None:
        """Run a command on a unit, on the target itself (REPORT LUNS), or on no unit at all."""
        try:
            if command.cdb[0] == Op.REPORT_LUNS:
                self._report_luns(command)
            elif server is not None:
                server.submit(command)
            elif command.cdb[0] == Op.INQUIRY:
                inquiry(None, command)
            elif command.cdb[0] == Op.REQUEST_SENSE:
                command.answer(fixed_format(LUN_NOT_SUPPORTED), command.cdb[4])
            else:
                command.fail(LUN_NOT_SUPPORTED)
        except SenseError as error:
            command.fail(error.sense, error.information)

    def _report_luns(self, command: Command) -> None:
        """REPORT LUNS; SPC-4, 6.33. There are no well-known logical units."""
        selection, allocation_bytes = command.cdb[2], u32(command.cdb, 6)
        if selection > 2 or allocation_bytes < 16:
            raise SenseError(INVALID_FIELD_IN_CDB)
        luns = [] if selection == 1 else sorted(self.servers)
        body = b"".join(encode_lun(lun).to_bytes(8, "big") for lun in luns)
        command.answer(len(body).to_bytes(4, "big") + bytes(4) + body, allocation_bytes)
