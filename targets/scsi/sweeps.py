"""Commands that walk a range in steps: WRITE SAME, UNMAP, VERIFY, WRITE AND VERIFY.

Owns the walk: one step in flight, no recursion when the logical unit answers at once.
Must not hold more than one step's scratch memory. Fails by raising `SenseError` before the
first step, or by ending the command with the step's fault.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from targets.lun import LOGICAL_BLOCK_BYTES, Done, LunError
from targets.scsi.blocks import store
from targets.scsi.cdb import Op, extent, u16
from targets.scsi.command import Command
from targets.scsi.sense import (
    FAULT_SENSE,
    INCORRECT_AMOUNT_OF_DATA,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    MISCOMPARED,
    PARAMETER_LIST_LENGTH,
    Sense,
    SenseError,
)
from targets.scsi.unit import (
    MAX_TRANSFER_BLOCKS,
    MAX_UNMAP_BLOCKS,
    MAX_UNMAP_DESCRIPTORS,
    MAX_WRITE_SAME_BLOCKS,
    Unit,
)

STEP_BYTES = 256 << 10
_ZEROS = bytes(STEP_BYTES)
_ZERO_BLOCK = bytes(LOGICAL_BLOCK_BYTES)
_PROTECT = 0xE0
_ANCHOR = 0x10
_UNMAP = 0x08
_NDOB = 0x01
_DESCRIPTOR = struct.Struct(">QI4x")

Step = Callable[[int, int, Done], None]
"""Do the work on (offset_bytes, length_bytes) and call back."""
Check = Callable[[int, int], tuple[Sense, int] | None]
"""Look at a step that has ended: None to go on, else why the command fails, and where."""


class Sweep:
    """One command's walk over a range, `STEP_BYTES` at a time."""

    __slots__ = (
        "_ended",
        "_failed",
        "_looping",
        "check",
        "command",
        "end_bytes",
        "offset_bytes",
        "step",
    )

    def __init__(
        self,
        command: Command,
        start_bytes: int,
        length_bytes: int,
        step: Step,
        check: Check | None = None,
    ) -> None:
        self.command = command
        self.offset_bytes = start_bytes
        self.end_bytes = start_bytes + length_bytes
        self.step = step
        self.check = check
        self._looping = False
        self._ended = False
        self._failed = False
        """The command has ended: its object may stand for another one already."""

    def run(self) -> None:
        """Go on until a step doesn't end at once; called again from its callback."""
        self._looping = True
        while self.offset_bytes < self.end_bytes:
            self._ended = False
            self.step(self.offset_bytes, self._length_bytes(), self._done)
            if not self._ended:
                self._looping = False
                return
            if self._failed:
                return
        self.command.good()

    def _length_bytes(self) -> int:
        return min(STEP_BYTES, self.end_bytes - self.offset_bytes)

    def _done(self, error: LunError | None) -> None:
        self._ended = True
        length = self._length_bytes()
        if error is not None:
            self._failed = True
            self.command.fail(FAULT_SENSE[error.fault])
            return
        if self.check is not None:
            found = self.check(self.offset_bytes, length)
            if found is not None:
                self._failed = True
                self.command.fail(*found)
                return
        self.offset_bytes += length
        if not self._looping:
            self.run()


def write_same(unit: Unit, command: Command) -> None:
    """WRITE SAME (10), (16); SBC-3, 5.45. LBPRZ is set, so unmapping only stands in for zeros."""
    cdb = command.cdb
    flags = cdb[1]
    unmap = bool(flags & _UNMAP)
    # No anchored blocks, no LBDATA or PBDATA, and with WSNZ a length of 0 is refused.
    lba, blocks = extent(cdb)
    no_data = cdb[0] == Op.WRITE_SAME_16 and bool(flags & _NDOB)
    if flags & (_PROTECT | _ANCHOR | 0x06) or (cdb[0] == Op.WRITE_SAME_10 and flags & 1):
        raise SenseError(INVALID_FIELD_IN_CDB)
    if blocks == 0:
        unit.check_extent(lba, 0)
        raise SenseError(INVALID_FIELD_IN_CDB)
    unit.check_extent(lba, blocks, MAX_WRITE_SAME_BLOCKS)
    unit.check_writable(command.nexus)
    block = _ZERO_BLOCK if no_data else command.parameter_list()
    if len(block) < LOGICAL_BLOCK_BYTES or (
        not no_data and command.offered_bytes != LOGICAL_BLOCK_BYTES
    ):
        raise SenseError(INVALID_FIELD_IN_CDB)
    command.asked_bytes = 0 if no_data else LOGICAL_BLOCK_BYTES
    start, length = lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES
    if block == _ZERO_BLOCK and unmap:
        unit.lu.discard(start, length, command.unit_done)
        return
    size = min(STEP_BYTES, length)
    pattern = memoryview(
        _ZEROS[:size] if block == _ZERO_BLOCK else block * (size // LOGICAL_BLOCK_BYTES)
    )

    def step(offset_bytes: int, length_bytes: int, done: Done) -> None:
        unit.lu.write(offset_bytes, pattern[:length_bytes], False, done)

    Sweep(command, start, length, step).run()


def unmap_command(unit: Unit, command: Command) -> None:
    """UNMAP; SBC-3, 5.25. Incomplete descriptors at the end are ignored."""
    cdb = command.cdb
    if cdb[1] & 1:
        raise SenseError(INVALID_FIELD_IN_CDB)
    unit.check_writable(command.nexus)
    length = u16(cdb, 7)
    command.asked_bytes = length
    if length == 0:
        command.good()
        return
    parameters = command.parameter_list()
    if len(parameters) < 8:
        raise SenseError(PARAMETER_LIST_LENGTH)
    described = min(u16(parameters, 2), len(parameters) - 8) // _DESCRIPTOR.size
    ranges = [
        (lba, blocks)
        for lba, blocks in _DESCRIPTOR.iter_unpack(parameters[8 : 8 + described * 16])
        if blocks or lba > unit.blocks
    ]
    if described > MAX_UNMAP_DESCRIPTORS or sum(n for _, n in ranges) > MAX_UNMAP_BLOCKS:
        raise SenseError(INVALID_FIELD_IN_LIST)
    for lba, blocks in ranges:
        unit.check_extent(lba, blocks)
    command.pending = len(ranges)
    if not ranges:
        command.good()
    for lba, blocks in ranges:
        unit.lu.discard(
            lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES, command.segment_done
        )


def _compare(unit: Unit, command: Command, start: int, length: int, expected: bytes | None) -> None:
    """Read the range back; with `expected` (repeated over the range) a difference is MISCOMPARE."""
    scratch = memoryview(bytearray(min(STEP_BYTES, length)))

    def step(offset_bytes: int, length_bytes: int, done: Done) -> None:
        unit.lu.read(offset_bytes, scratch[:length_bytes], done)

    def check(offset_bytes: int, length_bytes: int) -> tuple[Sense, int] | None:
        if expected is None:
            return None
        at = offset_bytes - start
        if len(expected) < length:
            wanted = expected * (length_bytes // len(expected))
        else:
            wanted = expected[at : at + length_bytes]
        found = scratch[:length_bytes]
        if found == wanted:
            return None
        first = next(i for i in range(length_bytes) if found[i] != wanted[i])
        return MISCOMPARED, at + first

    Sweep(command, start, length, step, check).run()


def verify(unit: Unit, command: Command) -> None:
    """VERIFY (10), (12), (16); SBC-3, 5.23. BYTCHK 0 reads the medium, 1 and 3 compare."""
    cdb = command.cdb
    byte_check = cdb[1] >> 1 & 3
    if cdb[1] & _PROTECT or byte_check == 2:
        raise SenseError(INVALID_FIELD_IN_CDB)
    lba, blocks = extent(cdb)
    unit.check_extent(lba, blocks, MAX_TRANSFER_BLOCKS)
    unit.check_readable()
    length = blocks * LOGICAL_BLOCK_BYTES
    expected = None
    if byte_check:
        command.asked_bytes = length if byte_check == 1 else LOGICAL_BLOCK_BYTES
        expected = command.parameter_list()[: command.asked_bytes]
        if len(expected) < command.asked_bytes:
            raise SenseError(INCORRECT_AMOUNT_OF_DATA)
    if length == 0:
        command.good()
        return
    _compare(unit, command, lba * LOGICAL_BLOCK_BYTES, length, expected)


class _Verification(Command):
    """The second half of WRITE AND VERIFY: a compare that ends the command it belongs to."""

    __slots__ = ("outer",)

    def __init__(self, outer: Command) -> None:
        super().__init__()
        self.outer = outer

    def completed(self) -> None:
        self.outer.status = self.status
        self.outer.sense = self.sense
        self.outer.completed()


class _DurableWrite(Command):
    """The first half of WRITE AND VERIFY."""

    __slots__ = ("outer", "start", "unit")

    def __init__(self, outer: Command, unit: Unit, start: int) -> None:
        super().__init__()
        self.outer, self.unit, self.start = outer, unit, start
        self.data_out = outer.data_out
        self.asked_bytes = outer.asked_bytes

    def completed(self) -> None:
        if self.status:
            self.outer.status, self.outer.sense, self.outer.asked_bytes = self.status, self.sense, 0
            self.outer.completed()
            return
        written = self.outer.parameter_list()[: self.outer.asked_bytes]
        length = len(written) & -LOGICAL_BLOCK_BYTES
        second = _Verification(self.outer)
        if length == 0:
            second.good()
        else:
            _compare(self.unit, second, self.start, length, written[:length])


def write_and_verify(unit: Unit, command: Command) -> None:
    """WRITE AND VERIFY (10), (12), (16); SBC-3, 5.41: durable, then read back and compared."""
    cdb = command.cdb
    if cdb[1] & _PROTECT or cdb[1] >> 1 & 3 > 1:
        raise SenseError(INVALID_FIELD_IN_CDB)
    lba, blocks = extent(cdb)
    unit.check_extent(lba, blocks, MAX_TRANSFER_BLOCKS)
    unit.check_writable(command.nexus)
    command.asked_bytes = blocks * LOGICAL_BLOCK_BYTES
    start = lba * LOGICAL_BLOCK_BYTES
    store(unit, _DurableWrite(command, unit, start), start, True)
