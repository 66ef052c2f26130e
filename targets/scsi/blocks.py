"""Commands that move or flush the medium's blocks: READ, WRITE, PRE-FETCH, SYNCHRONIZE CACHE.

Owns the hot path: one call per command, nothing allocated where the data is in one segment.
Must not wait: a command ends in the logical unit's callback. Fails by raising `SenseError`.
"""

from __future__ import annotations

from targets.lun import LOGICAL_BLOCK_BYTES, LunError
from targets.scsi.cdb import Op, extent
from targets.scsi.command import Command
from targets.scsi.sense import FAULT_SENSE, INVALID_FIELD_IN_CDB, SenseError
from targets.scsi.unit import MAX_TRANSFER_BLOCKS, Unit

_PROTECT = 0xE0
_FUA = 0x08


def read(unit: Unit, command: Command) -> None:
    """READ (6), (10), (12), (16); SBC-3, 5.8 to 5.11."""
    cdb = command.cdb
    flags = 0 if cdb[0] == Op.READ_6 else cdb[1]
    if flags & _PROTECT:
        raise SenseError(INVALID_FIELD_IN_CDB)
    lba, blocks = extent(cdb)
    unit.check_extent(lba, blocks, MAX_TRANSFER_BLOCKS)
    unit.check_readable()
    command.asked_bytes = blocks * LOGICAL_BLOCK_BYTES
    if flags & _FUA:
        _read_from_medium(unit, command, lba)
    else:
        _fill(unit, command, lba * LOGICAL_BLOCK_BYTES)


def _read_from_medium(unit: Unit, command: Command, lba: int) -> None:
    """A forced read returns what is durable, so what is cached has to become so first."""

    def flushed(error: LunError | None) -> None:
        if error is None:
            _fill(unit, command, lba * LOGICAL_BLOCK_BYTES)
        else:
            command.fail(FAULT_SENSE[error.fault])

    unit.lu.flush(flushed)


def _fill(unit: Unit, command: Command, offset_bytes: int) -> None:
    segments = command.data_in
    asked = command.asked_bytes
    if len(segments) == 1 and len(segments[0]) <= asked and segments[0]:
        command.in_bytes = len(segments[0])
        unit.lu.read(offset_bytes, segments[0], command.unit_done)
        return
    pieces = _pieces(segments, asked)
    command.in_bytes = sum(len(piece) for piece in pieces)
    if not pieces:
        command.good()
        return
    command.pending = len(pieces)
    for piece in pieces:
        length = len(piece)
        unit.lu.read(offset_bytes, piece, command.segment_done)
        offset_bytes += length


def _pieces(segments: object, limit_bytes: int) -> list[memoryview]:
    """The first `limit_bytes` of the segments, in whole blocks."""
    assert isinstance(segments, tuple | list)
    pieces: list[memoryview] = []
    for segment in segments:
        usable = min(len(segment), limit_bytes) & -LOGICAL_BLOCK_BYTES
        if usable:
            pieces.append(segment[:usable])
            limit_bytes -= usable
    return pieces


def write(unit: Unit, command: Command) -> None:
    """WRITE (6), (10), (12), (16); SBC-3, 5.26 to 5.29."""
    cdb = command.cdb
    flags = 0 if cdb[0] == Op.WRITE_6 else cdb[1]
    if flags & _PROTECT:
        raise SenseError(INVALID_FIELD_IN_CDB)
    lba, blocks = extent(cdb)
    unit.check_extent(lba, blocks, MAX_TRANSFER_BLOCKS)
    unit.check_writable(command.nexus)
    command.asked_bytes = blocks * LOGICAL_BLOCK_BYTES
    store(unit, command, lba * LOGICAL_BLOCK_BYTES, bool(flags & _FUA))


def store(unit: Unit, command: Command, offset_bytes: int, fua: bool) -> None:
    """Write what came of `asked_bytes`: whole blocks only, the rest is a residual."""
    segments = command.data_out
    asked = command.asked_bytes
    if len(segments) == 1 and len(segments[0]) == asked and asked:
        unit.lu.write(offset_bytes, segments[0], fua, command.unit_done)
        return
    pieces = _pieces(segments, asked)
    if not pieces:
        command.good()
        return
    command.pending = len(pieces)
    for piece in pieces:
        length = len(piece)
        unit.lu.write(offset_bytes, piece, fua, command.segment_done)
        offset_bytes += length


def synchronize_cache(unit: Unit, command: Command) -> None:
    """SYNCHRONIZE CACHE (10), (16); SBC-3, 5.22. IMMED is answered late, which is allowed."""
    lba, blocks = extent(command.cdb)
    unit.check_extent(lba, blocks)
    unit.check_readable()
    unit.check_kept(command.nexus)
    unit.lu.flush(command.unit_done)


def prefetch(unit: Unit, command: Command) -> None:
    """PRE-FETCH (10), (16); SBC-3, 5.4. Only the range is checked."""
    lba, blocks = extent(command.cdb)
    unit.check_extent(lba, blocks)
    unit.check_readable()
    command.good()
