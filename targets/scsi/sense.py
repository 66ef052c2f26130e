"""Sense data: what a SCSI command that did not end well tells its initiator.

Owns the conditions this device server can report and their bytes (fixed format). Must not
know where a condition comes from. Fails only by assertion: every condition is in the table.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from targets.lun import LunFault, UnitAttention

SENSE_BYTES = 18
_FIXED = struct.Struct(">BBBIBIBBBBH")


class Status(enum.IntEnum):
    """SCSI status codes (SAM-5, 5.3)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


class SenseKey(enum.IntEnum):
    """Sense keys (SPC-4, 4.5.6)."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


@dataclass(frozen=True, slots=True)
class Sense:
    """One condition: sense key, additional sense code and qualifier (SPC-4, annex F)."""

    key: SenseKey
    asc: int
    ascq: int


class SenseError(Exception):
    """A command ends with CHECK CONDITION; `information` goes to the INFORMATION field."""

    def __init__(self, sense: Sense, information: int | None = None) -> None:
        super().__init__(f"{sense.key.name} {sense.asc:02X}/{sense.ascq:02X}")
        self.sense = sense
        self.information = information


NO_SENSE = Sense(SenseKey.NO_SENSE, 0x00, 0x00)
NOT_READY = Sense(SenseKey.NOT_READY, 0x04, 0x00)
READ_FAILED = Sense(SenseKey.MEDIUM_ERROR, 0x11, 0x00)
WRITE_FAILED = Sense(SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
PARAMETER_LIST_LENGTH = Sense(SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_OPCODE = Sense(SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = Sense(SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
LUN_NOT_SUPPORTED = Sense(SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
INVALID_FIELD_IN_LIST = Sense(SenseKey.ILLEGAL_REQUEST, 0x26, 0x00)
SAVING_NOT_SUPPORTED = Sense(SenseKey.ILLEGAL_REQUEST, 0x39, 0x00)
WRITE_PROTECTED = Sense(SenseKey.DATA_PROTECT, 0x27, 0x00)
SPACE_EXHAUSTED = Sense(SenseKey.DATA_PROTECT, 0x27, 0x07)
MISCOMPARED = Sense(SenseKey.MISCOMPARE, 0x1D, 0x00)
UNEXPECTED_UNSOLICITED_DATA = Sense(SenseKey.ABORTED_COMMAND, 0x0C, 0x0C)
INCORRECT_AMOUNT_OF_DATA = Sense(SenseKey.ABORTED_COMMAND, 0x0C, 0x0D)
PROTOCOL_SERVICE_CRC = Sense(SenseKey.ABORTED_COMMAND, 0x47, 0x05)
# A medium error would be tried again by the initiator's kernel, and then it would seem mended.
CACHE_LOST = Sense(SenseKey.HARDWARE_ERROR, 0x0C, 0x00)
INTERNAL_FAILURE = Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x00)

POWER_ON = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x00)
BUS_RESET = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x02)
DEVICE_RESET = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x03)
MODE_PARAMETERS_CHANGED = Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x01)
COMMANDS_CLEARED = Sense(SenseKey.UNIT_ATTENTION, 0x2F, 0x00)
REPORTED_LUNS_CHANGED = Sense(SenseKey.UNIT_ATTENTION, 0x3F, 0x0E)

ATTENTION_SENSE: dict[UnitAttention, Sense] = {
    UnitAttention.CAPACITY_CHANGED: Sense(SenseKey.UNIT_ATTENTION, 0x2A, 0x09),
    UnitAttention.DATA_CHANGED: Sense(SenseKey.UNIT_ATTENTION, 0x28, 0x00),
    UnitAttention.MODE_CHANGED: MODE_PARAMETERS_CHANGED,
}

FAULT_SENSE: dict[LunFault, Sense] = {
    LunFault.NOT_READY: NOT_READY,
    LunFault.WRITE_PROTECTED: WRITE_PROTECTED,
    LunFault.FENCED: WRITE_PROTECTED,
    LunFault.NO_SPACE: SPACE_EXHAUSTED,
    LunFault.READ_ERROR: READ_FAILED,
    LunFault.WRITE_ERROR: WRITE_FAILED,
}


def fixed_format(sense: Sense, information: int | None = None) -> bytes:
    """The 18 bytes of fixed format sense data, current error (SPC-4, 4.5.3).

    `information` is left out (VALID clear) when it is None or needs more than 32 bits.
    """
    valid = information is not None and information < 1 << 32
    return _FIXED.pack(
        0xF0 if valid else 0x70,
        0,
        sense.key,
        information if valid and information is not None else 0,
        SENSE_BYTES - 8,
        0,
        sense.asc,
        sense.ascq,
        0,
        0,
        0,
    )
