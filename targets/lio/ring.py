"""The TCMU command ring: requests taken from it, answers put into it, in any order.

Owns the positions in one ring and the commands that are out. Must not wait, poke the uio
device or know a logical unit. Fails with `TornRingError` when an entry contradicts itself;
nothing outside the mapping, and no data outside its data area, is touched for any content.

The kernel collects answers slot by slot from where it stopped up to cmd_tail, and takes from
each slot the command id, not from the order in which it queued them. So the first command that
ends answers in the oldest slot, over the request of another that still runs: requests are read
once, when first seen. Answering each in its own slot instead would let one slow flush hold
back every command behind it.

For a successor (see `takeover`) the slots between tail and head always name the commands that
are not answered: a command that loses its slot to another's answer takes over that one's slot.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from targets.lio.layout import (
    ANSWER,
    ANSWER_MARK,
    CMD_ID,
    CMD_ID_AT,
    COMMAND_BYTES,
    HEAD_WORD,
    IOVEC_BYTES,
    IOVECS_AT,
    MARK_ANSWERING,
    MARK_AT,
    MARK_MOVED,
    OP_MASK,
    REQUEST,
    SENSE_AT,
    SENSE_BYTES,
    TAIL_WORD,
    UFLAG_READ_LEN,
    UFLAG_UNKNOWN_OP,
    UFLAGS_AT,
    RingOp,
    TornRingError,
    aborted_by,
    entry_length,
    read_mailbox,
)
from targets.scsi.cdb import MEDIA_READS, MEDIA_WRITES, data_out_bytes
from targets.scsi.command import Command
from targets.scsi.sense import Status

MAX_SPARE = 128
_BLOCK_MASK = 511
_CDB_BYTES = 16
_pack_answer = ANSWER.pack_into
_pack_id = CMD_ID.pack_into
_unpack_iovec = struct.Struct("=QQ").unpack_from
_unpack_request = REQUEST.unpack_from
# Plain numbers: members of an enum cost an attribute lookup each on the hot path.
_CMD, _TMR, _PAD = int(RingOp.CMD), int(RingOp.TMR), int(RingOp.PAD)
_CHECK_CONDITION = int(Status.CHECK_CONDITION)


@dataclass(frozen=True, slots=True)
class TaskManagement:
    """The kernel tells that commands are being aborted; it still wants their answers."""

    kind: int
    """One of `layout.TmrKind`, or what a newer kernel knows."""
    cmd_ids: tuple[int, ...]


class RingCommand(Command):
    """A command, as the ring carries it. Its objects are used again."""

    __slots__ = ("cmd_id", "request_lost", "ring", "segments", "slot", "total_bytes", "writes")

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self.ring = ring
        self.cmd_id = 0
        self.slot = 0
        """Where in the ring its id stands."""
        self.segments: Sequence[memoryview] = ()
        """The data area's pieces, for either direction."""
        self.total_bytes = 0
        """What the initiator transfers: the sum of the iovecs."""
        self.writes = False
        self.request_lost = False
        """Left behind by a predecessor, and only the id is known: it can be answered, not run."""

    def completed(self) -> None:
        """Answer in the ring."""
        self.ring.complete(self)

    def end(self, status: Status) -> None:
        """Answer with a bare status (BUSY, TASK ABORTED) instead of running the command."""
        self.status = status
        self.ring.complete(self)


class Ring:
    """One device's ring, over its whole mapping."""

    def __init__(self, area: memoryview, wake: Callable[[], None]) -> None:
        """Begin at cmd_tail; raises `MailboxError`, `TornRingError`.

        `wake` is called when there is something for the kernel to collect, once until `poked`.
        """
        self.mailbox = read_mailbox(area)
        self.pending: dict[int, RingCommand] = {}
        """Taken and not answered, by command id."""
        self.poke_due = False
        """The kernel has to be poked: four bytes written to the uio device."""
        self.detached = False
        self._wake = wake
        self._area = area
        self._at = self.mailbox.ring_at
        self._words = area[: self.mailbox.data_at].cast("I")
        self._size = self.mailbox.ring_bytes
        self._data_at = self.mailbox.data_at
        self._total = self.mailbox.total_bytes
        self._has_read_len = self.mailbox.has_read_len
        self._tail = self._seen = self._words[TAIL_WORD]
        if self._tail >= self.mailbox.ring_bytes or self._tail % 8:
            raise TornRingError(f"cmd_tail {self._tail} in {self.mailbox.ring_bytes} bytes")
        self._line: deque[int] = deque()
        """Where each entry from the tail on ends; complemented where nobody answers (PAD, TMR)."""
        self._owner: dict[int, RingCommand] = {}
        """Which command's id stands in a slot."""
        self._spare: list[RingCommand] = []

    def poked(self) -> None:
        """The shell is about to poke the kernel; what ends from here on wakes it again."""
        self.poke_due = False

    def detach(self) -> None:
        """Stop touching slots: the ring is to be reset, or unmapped.

        Commands that run still write into the data area, which the kernel gives to others
        after a reset: wait until `pending` is empty first. `wake` is called for the last.
        """
        self.detached = True
        self._words.release()
        self._area = memoryview(bytearray())  # so that the mapping can be closed

    # ------------------------------------------------------------------------ taking

    def take(self) -> RingCommand | TaskManagement | None:
        """The next entry, or None when there is no more; raises `TornRingError`.

        The nexus of a command is for the caller to set.
        """
        if self.detached:
            return None
        size, words = self._size, self._words
        while True:
            at, head = self._seen, words[HEAD_WORD]
            if at == head:
                return None
            length = words[self._at + at >> 2] - _CMD
            if (
                length & OP_MASK
                or length < COMMAND_BYTES
                or head >= size
                or head & OP_MASK
                or length > (head if head > at else size) - at
            ):
                # Not the usual: what it is, or what is wrong with it, takes a closer look.
                op, length = entry_length(self._area, self.mailbox, at, head)
            else:
                op = _CMD
            end = at + length
            if end == size:
                end = 0
            if op == _CMD or (op > _TMR and self._is_moved(at)):
                command = self._command(at, length)
                self._seen = end
                self._line.append(end)
                return command
            if op == _PAD:
                self._skip(end)
            elif op == _TMR:
                found = aborted_by(self._area, self._at + at, length)
                self._skip(end)
                return TaskManagement(*found)
            else:
                self._refuse(at, end)

    def _is_moved(self, at: int) -> bool:
        return self._area[self._at + at + MARK_AT] == MARK_MOVED

    def _skip(self, end: int) -> None:
        self._seen = end
        self._line.append(~end)
        if len(self._line) == 1:
            self._move_tail(self._tail)

    def _refuse(self, at: int, end: int) -> None:
        """An entry that a newer kernel may know: it is said to be unknown, and passed."""
        command = self._enter(at)
        command.cdb = bytes(_CDB_BYTES)
        self._seen = end
        self._line.append(end)
        command.status = Status.CHECK_CONDITION
        self._answer(command, UFLAG_UNKNOWN_OP, 0)

    def _enter(self, at: int) -> RingCommand:
        """A command object for a slot whose id is free."""
        cmd_id = CMD_ID.unpack_from(self._area, self._at + at + CMD_ID_AT)[0]
        if cmd_id in self.pending:
            raise TornRingError(f"command id {cmd_id} stands in two slots")
        spare = self._spare
        command = spare.pop() if spare else RingCommand(self)
        command.cmd_id = cmd_id
        command.slot = at
        self.pending[cmd_id] = self._owner[at] = command
        return command

    def _command(self, at: int, length: int) -> RingCommand:
        area, offset = self._area, self._at + at
        if area[offset + MARK_AT] == MARK_MOVED:
            command = self._enter(at)
            command.cdb = bytes(_CDB_BYTES)
            command.request_lost = True
            return command
        (_, _, _, _, count, bidi, dif, cdb_at) = _unpack_request(area, offset)
        if not offset + IOVECS_AT <= cdb_at < offset + length:
            raise TornRingError(f"a CDB at {cdb_at}, outside of its entry at {offset}")
        iovecs_end = IOVECS_AT + IOVEC_BYTES * (count + bidi + dif)
        if iovecs_end > length:
            raise TornRingError(f"{count}+{bidi}+{dif} iovecs in {length} bytes at {at}")
        cdb = bytes(area[cdb_at : min(cdb_at + _CDB_BYTES, offset + length)])
        if len(cdb) < _CDB_BYTES:
            cdb = cdb.ljust(_CDB_BYTES, b"\0")
        opcode = cdb[0]
        reads = opcode in MEDIA_READS
        segments, total = self._segments(offset + IOVECS_AT, count, reads)
        command = self._enter(at)
        command.cdb = cdb
        command.segments = segments
        command.total_bytes = command.offered_bytes = total
        # How much of it the CDB asks for, the medium's commands see to themselves.
        if reads:
            command.data_in = segments
        elif opcode in MEDIA_WRITES:
            command.writes = True
            command.data_out = segments
        else:
            wanted = data_out_bytes(cdb)
            if wanted:
                command.writes = True
                command.data_out = _cut(segments, wanted)
        return command

    def _segments(self, at: int, count: int, rounded: bool) -> tuple[tuple[memoryview, ...], int]:
        """The data area as the iovecs name it, in place, and its length in bytes.

        With `rounded` the last is lengthened to whole blocks, which stays inside its page.
        """
        area, data_at, end = self._area, self._data_at, self._total
        if count == 1:
            base, length = _unpack_iovec(area, at)
            if base >= data_at and base + length <= end and not length & _BLOCK_MASK:
                return (area[base : base + length],), length
        total = 0
        found: list[memoryview] = []
        last = at + IOVEC_BYTES * (count - 1)
        while at <= last:
            base, length = _unpack_iovec(area, at)
            if base < data_at or base + length > end:
                raise TornRingError(f"{length} bytes of data at {base}, outside of the data area")
            total += length
            if length & _BLOCK_MASK:
                if at != last:
                    raise TornRingError(f"{length} bytes of data before the last iovec")
                whole = length + _BLOCK_MASK & ~_BLOCK_MASK
                if rounded and not base & _BLOCK_MASK and base + whole <= end:
                    length = whole
            found.append(area[base : base + length])
            at += IOVEC_BYTES
        return tuple(found), total

    # ------------------------------------------------------------------------ answering

    def complete(self, command: RingCommand) -> None:
        """Put the answer of a command that has ended into the ring."""
        uflags = read_len = 0
        if not command.status and command.total_bytes and not command.writes:
            filled = command.in_bytes
            if command.reply:
                filled = _fill(command.segments, command.reply)
            if filled < command.total_bytes:
                if filled and self._has_read_len:
                    uflags, read_len = UFLAG_READ_LEN, filled
                else:
                    # Without a length, and a length of 0 is none, the kernel hands out all of
                    # the data area: pages that other initiators' commands have used.
                    _blank(command.segments, filled, command.total_bytes)
        self._answer(command, uflags, read_len)

    def _answer(self, command: RingCommand, uflags: int, read_len: int) -> None:
        del self.pending[command.cmd_id]
        if self.detached:
            command.segments = command.data_in = command.data_out = ()
            if not self.pending:
                self._wake()
            return
        area, line, owner = self._area, self._line, self._owner
        slot, end = self._tail, line.popleft()
        offset = self._at + slot
        displaced = owner.pop(slot)
        # In this order, so that a daemon killed between any two stores leaves a slot at the
        # tail that says so, and a successor knows not to trust it.
        area[offset + MARK_AT] = MARK_ANSWERING
        if displaced is not command:
            own = command.slot
            area[self._at + own + MARK_AT] = MARK_MOVED
            _pack_id(area, self._at + own + CMD_ID_AT, displaced.cmd_id)
            displaced.slot = own
            owner[own] = displaced
            _pack_id(area, offset + CMD_ID_AT, command.cmd_id)
        _pack_answer(area, offset + UFLAGS_AT, uflags, command.status, 0, ANSWER_MARK, read_len)
        sense = command.sense
        if command.status == _CHECK_CONDITION:
            # The kernel copies all 96 bytes, so what the request left there has to go.
            sense_at = offset + SENSE_AT
            area[sense_at : sense_at + SENSE_BYTES] = sense[:SENSE_BYTES].ljust(SENSE_BYTES, b"\0")
        self._move_tail(end)
        self._recycle(command)

    def _move_tail(self, tail: int) -> None:
        line = self._line
        while line and line[0] < 0:
            tail = ~line.popleft()
        self._tail = self._words[TAIL_WORD] = tail
        if not self.poke_due:
            self.poke_due = True
            self._wake()

    def _recycle(self, command: RingCommand) -> None:
        command.segments = command.data_in = command.data_out = ()
        if len(self._spare) < MAX_SPARE:
            command.status = command.in_bytes = command.asked_bytes = command.pending = 0
            command.offered_bytes = command.total_bytes = 0
            command.sense = command.reply = b""
            command.writes = command.request_lost = False
            self._spare.append(command)


def _cut(segments: tuple[memoryview, ...], limit_bytes: int) -> tuple[memoryview, ...]:
    """The first `limit_bytes` of the segments; the same tuple where it fits as it is."""
    if len(segments) == 1:
        only = segments[0]
        return segments if len(only) <= limit_bytes else (only[:limit_bytes],)
    found: list[memoryview] = []
    for segment in segments:
        if limit_bytes <= 0:
            break
        found.append(segment if len(segment) <= limit_bytes else segment[:limit_bytes])
        limit_bytes -= len(segment)
    return tuple(found)


def _fill(segments: Sequence[memoryview], data: bytes) -> int:
    """Copy `data` into the segments; how much found room."""
    at = 0
    for segment in segments:
        piece = data[at : at + len(segment)]
        segment[: len(piece)] = piece
        at += len(piece)
    return at


def _blank(segments: Sequence[memoryview], begin: int, end: int) -> None:
    """Zero the segments between two offsets."""
    at = 0
    for segment in segments:
        low, high = max(begin - at, 0), min(end - at, len(segment))
        if low < high:
            segment[low:high] = bytes(high - low)
        at += len(segment)
