"""The device server: one per logical unit, shared by all front ends.

Owns the table of commands and the order of checks: unit attention, then the command's own.
Must not know how a command travelled or who waits for it. Fails by ending the command with
sense data; an exception that leaves `submit` is our mistake.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from targets.lun import LOGICAL_BLOCK_BYTES, LogicalUnit, UnitAttention
from targets.scsi import blocks, sweeps
from targets.scsi.cdb import SA_GET_LBA_STATUS, SA_READ_CAPACITY_16, SA_REPORT_OPCODES, Op, u32
from targets.scsi.command import Command, Nexus
from targets.scsi.inquiry import inquiry
from targets.scsi.modes import mode_select, mode_sense
from targets.scsi.opcodes import report_supported
from targets.scsi.sense import (
    ATTENTION_SENSE,
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    NO_SENSE,
    POWER_ON,
    Sense,
    SenseError,
    fixed_format,
)
from targets.scsi.unit import Unit

Handler = Callable[[Unit, Command], None]


def _test_unit_ready(unit: Unit, command: Command) -> None:
    unit.check_readable()
    command.good()


def _request_sense(_unit: Unit, command: Command) -> None:
    if command.cdb[1] & 1:
        raise SenseError(INVALID_FIELD_IN_CDB)
    attentions = command.nexus.attentions
    sense = attentions.popleft() if attentions else NO_SENSE
    command.answer(fixed_format(sense), command.cdb[4])


def _start_stop_unit(unit: Unit, command: Command) -> None:
    """A stop makes everything durable; a volume has no other state to stop in (SBC-3, 5.24)."""
    if command.cdb[4] & 0xF0 or command.cdb[4] & 0x02:
        raise SenseError(INVALID_FIELD_IN_CDB)
    if command.cdb[4] & 0x01:
        unit.check_readable()
        command.good()
    else:
        unit.check_kept(command.nexus)
        unit.lu.flush(command.unit_done)


def _prevent_allow(_unit: Unit, command: Command) -> None:
    if command.cdb[4] & 0x02:
        raise SenseError(INVALID_FIELD_IN_CDB)
    command.good()


def _read_capacity_10(unit: Unit, command: Command) -> None:
    cdb = command.cdb
    if not cdb[8] & 1 and any(cdb[2:6]):
        raise SenseError(INVALID_FIELD_IN_CDB)
    unit.check_readable()
    last = min(unit.blocks - 1, 0xFFFFFFFF)
    command.answer(struct.pack(">II", last, LOGICAL_BLOCK_BYTES), 8)


def _get_lba_status(unit: Unit, command: Command) -> None:
    """One descriptor from the LBA to the end: mapped, or of unknown state (SBC-4, 5.9).

    A logical unit isn't asked what it has allocated; without this answer, initiators that
    look before they read would ask again for each range.
    """
    cdb = command.cdb
    lba = int.from_bytes(cdb[2:10], "big")
    unit.check_extent(lba, 1)
    unit.check_readable()
    blocks = min(unit.blocks - lba, 0xFFFFFFFF)
    command.answer(struct.pack(">I4xQIB3x", 20, lba, blocks, 0), u32(cdb, 10))


def _service_action_in(unit: Unit, command: Command) -> None:
    cdb = command.cdb
    if cdb[1] & 0x1F == SA_GET_LBA_STATUS:
        _get_lba_status(unit, command)
        return
    if cdb[1] & 0x1F != SA_READ_CAPACITY_16 or (any(cdb[2:10]) and not cdb[14] & 1):
        raise SenseError(INVALID_FIELD_IN_CDB)
    unit.check_readable()
    # Eight logical blocks a physical one, the first aligned; thin (LBPME), LBPRZ.
    data = struct.pack(">QIBBH16x", unit.blocks - 1, LOGICAL_BLOCK_BYTES, 0, 3, 0xC000)
    command.answer(data, u32(cdb, 10))


def _maintenance_in(unit: Unit, command: Command) -> None:
    if command.cdb[1] & 0x1F != SA_REPORT_OPCODES:
        raise SenseError(INVALID_FIELD_IN_CDB)
    report_supported(unit, command)


HANDLERS: dict[int, Handler] = {
    Op.TEST_UNIT_READY: _test_unit_ready,
    Op.REQUEST_SENSE: _request_sense,
    Op.READ_6: blocks.read,
    Op.WRITE_6: blocks.write,
    Op.INQUIRY: inquiry,
    Op.MODE_SELECT_6: mode_select,
    Op.MODE_SENSE_6: mode_sense,
    Op.START_STOP_UNIT: _start_stop_unit,
    Op.PREVENT_ALLOW: _prevent_allow,
    Op.READ_CAPACITY_10: _read_capacity_10,
    Op.READ_10: blocks.read,
    Op.WRITE_10: blocks.write,
    Op.WRITE_VERIFY_10: sweeps.write_and_verify,
    Op.VERIFY_10: sweeps.verify,
    Op.PREFETCH_10: blocks.prefetch,
    Op.SYNCHRONIZE_CACHE_10: blocks.synchronize_cache,
    Op.WRITE_SAME_10: sweeps.write_same,
    Op.UNMAP: sweeps.unmap_command,
    Op.MODE_SELECT_10: mode_select,
    Op.MODE_SENSE_10: mode_sense,
    Op.READ_16: blocks.read,
    Op.WRITE_16: blocks.write,
    Op.WRITE_VERIFY_16: sweeps.write_and_verify,
    Op.VERIFY_16: sweeps.verify,
    Op.PREFETCH_16: blocks.prefetch,
    Op.SYNCHRONIZE_CACHE_16: blocks.synchronize_cache,
    Op.WRITE_SAME_16: sweeps.write_same,
    Op.SERVICE_ACTION_IN_16: _service_action_in,
    Op.MAINTENANCE_IN: _maintenance_in,
    Op.READ_12: blocks.read,
    Op.WRITE_12: blocks.write,
    Op.WRITE_VERIFY_12: sweeps.write_and_verify,
    Op.VERIFY_12: sweeps.verify,
}

# These are answered although a unit attention is pending (SAM-5, 5.14).
_UNATTENDED = frozenset({Op.INQUIRY, Op.REQUEST_SENSE, Op.REPORT_LUNS})


class DeviceServer:
    """Executes commands on one logical unit."""

    def __init__(self, lu: LogicalUnit) -> None:
        self.unit = Unit(lu)

    def open_nexus(self, name: str, *, power_on: bool = True) -> Nexus:
        """A new I_T nexus; it hears POWER ON OCCURRED first unless the front end says it did."""
        nexus = Nexus(name)
        if power_on:
            nexus.queue(POWER_ON)
        nexus.lost_writes = self.unit.lu.losses.owed(name)
        self.unit.nexuses.add(nexus)
        return nexus

    def close_nexus(self, nexus: Nexus) -> None:
        """The initiator has gone."""
        self.unit.nexuses.discard(nexus)

    def attention(self, attention: UnitAttention) -> None:
        """Tell every nexus once that something changed."""
        self.unit.attention(ATTENTION_SENSE[attention])

    def reset(self, sense: Sense) -> None:
        """A reset condition; the front end has aborted the commands (SAM-5, 6.3)."""
        self.unit.software_write_protect = False
        self.unit.attention(sense)

    def submit(self, command: Command) -> None:
        """Run a command; `command.completed` is called once, maybe before this returns."""
        opcode = command.cdb[0]
        attentions = command.nexus.attentions
        if attentions and opcode not in _UNATTENDED:
            command.fail(attentions.popleft())
            return
        handler = HANDLERS.get(opcode)
        if handler is None:
            command.fail(INVALID_OPCODE)
            return
        try:
            handler(self.unit, command)
        except SenseError as error:
            command.fail(error.sense, error.information)
