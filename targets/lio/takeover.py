"""What a restarted daemon does with the commands its predecessor left in the ring.

Owns the judgement of the slots between cmd_tail and cmd_head before anything is served. Must
not change them. Fails never: a ring that makes no sense is a verdict, too.

What a daemon that was killed may have done with a left command: nothing, half of it, or all of
it without the answer. Three things can follow.

* It is run again, where that can do no harm: it reads, tells, or flushes.
* It is answered BUSY (SAM-5, 5.3.1), and the initiator sends it again if it still wants it. Every
  write ends so, although repeating one gives the same bytes: the kernel answers a command that
  is out for longer than cmd_time_out in our place and leaves its slot as it is. Its initiator
  may have written other data there since, and the predecessor may have acknowledged that.
* It is answered TASK ABORTED, where a TMR entry names it: its initiator waits for no data.

So no write of a predecessor is ever carried out by its successor on its own account.

Where the slots can't be trusted (the predecessor died between two stores of an answer, or what
stands there contradicts itself), the kernel has to forget them: configfs action/block_dev = 1,
which collects what was answered and answers new commands BUSY, then action/reset_ring = 1, which
answers all that is out with BUSY (2 would be CHECK CONDITION, an error for the host) and sets
head and tail to 0, then open, map, serve, and block_dev = 0. Measured on Linux 6.1 with
open-iscsi: initiators repeat what was answered BUSY, and their I/O goes on. A ring must never be
reset while commands of this process still run: their data pages are given to others.

Either way the kernel is poked first: the last answers may have been written but not announced.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from targets.lio.layout import (
    CMD_ID,
    CMD_ID_AT,
    HEAD_WORD,
    IOVEC_BYTES,
    IOVECS_AT,
    MAILBOX_BYTES,
    MARK_ANSWERING,
    MARK_AT,
    MARK_MOVED,
    REQUEST,
    TAIL_WORD,
    Mailbox,
    RingOp,
    TcmuError,
    TornRingError,
    aborted_by,
    entry_length,
    read_mailbox,
)
from targets.scsi.cdb import Op


class Fate(enum.Enum):
    """How a left command is answered."""

    RUN = "run"
    BUSY = "busy"
    ABORTED = "aborted"


class Course(enum.Enum):
    """What to do with the ring as a whole."""

    SERVE = "serve"
    """Nothing was left: serve."""
    ANSWER = "answer"
    """Take the left commands and give each its fate, then go on serving."""
    RESET = "reset"
    """Reset the ring through configfs first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in a ring, and what follows."""

    course: Course
    fates: dict[int, Fate] = field(default_factory=dict)
    """By command id; for `ANSWER` alone. Ids that are not here came later, and are run."""
    reason: str = ""
    """Why the ring has to be reset, for the log."""


RUN_AGAIN = frozenset(
    {
        Op.TEST_UNIT_READY,
        Op.REQUEST_SENSE,
        Op.INQUIRY,
        Op.MODE_SENSE_6,
        Op.MODE_SENSE_10,
        Op.START_STOP_UNIT,
        Op.PREVENT_ALLOW,
        Op.READ_CAPACITY_10,
        Op.SERVICE_ACTION_IN_16,
        Op.MAINTENANCE_IN,
        Op.REPORT_LUNS,
        Op.READ_6,
        Op.READ_10,
        Op.READ_12,
        Op.READ_16,
        Op.VERIFY_10,
        Op.VERIFY_12,
        Op.VERIFY_16,
        Op.PREFETCH_10,
        Op.PREFETCH_16,
        Op.SYNCHRONIZE_CACHE_10,
        Op.SYNCHRONIZE_CACHE_16,
    }
)
"""Commands that leave medium and mode as they are; a flush or a stop only adds durability."""

ASK_AGAIN = frozenset(
    {
        Op.WRITE_6,
        Op.WRITE_10,
        Op.WRITE_12,
        Op.WRITE_16,
        Op.WRITE_VERIFY_10,
        Op.WRITE_VERIFY_12,
        Op.WRITE_VERIFY_16,
        Op.WRITE_SAME_10,
        Op.WRITE_SAME_16,
        Op.UNMAP,
        Op.MODE_SELECT_6,
        Op.MODE_SELECT_10,
    }
)
"""Commands whose initiator may send them again although they were carried out already: they
set, and don't depend on what was there. One that does (COMPARE AND WRITE) must never be here."""


def fate_of(opcode: int, aborted: bool) -> Fate:
    """How a left command ends; `aborted`: a TMR entry names it."""
    if aborted:
        return Fate.ABORTED
    return Fate.RUN if opcode in RUN_AGAIN else Fate.BUSY


def judge(area: memoryview) -> Verdict:
    """Look at a ring before it is served; `area` is the whole mapping.

    Raises `MailboxError` when the mapping is no ring that we can serve at all.
    """
    mailbox = read_mailbox(area)
    words = area[:MAILBOX_BYTES].cast("I")
    tail, head = words[TAIL_WORD], words[HEAD_WORD]
    words.release()
    if tail == head < mailbox.ring_bytes:
        return Verdict(Course.SERVE)
    opcodes: dict[int, int] = {}
    aborted: set[int] = set()
    try:
        for op, at, length in _slots(area, mailbox, tail, head):
            if op == RingOp.TMR:
                aborted.update(aborted_by(area, mailbox.ring_at + at, length)[1])
            elif op != RingOp.PAD:
                _note(area, mailbox.ring_at + at, length, op, opcodes)
    except TcmuError as error:
        return Verdict(Course.RESET, reason=str(error))
    if not opcodes:
        return Verdict(Course.SERVE)
    fates = {each: fate_of(opcode, each in aborted) for each, opcode in opcodes.items()}
    return Verdict(Course.ANSWER, fates)


def _slots(
    area: memoryview, mailbox: Mailbox, tail: int, head: int
) -> Iterator[tuple[int, int, int]]:
    """Opcode, position and length of each entry that was left."""
    at = tail
    if at >= mailbox.ring_bytes or at % 8:
        raise TornRingError(f"cmd_tail {at} in a ring of {mailbox.ring_bytes} bytes")
    while at != head:
        op, length = entry_length(area, mailbox, at, head)
        yield op, at, length
        at += length
        if at == mailbox.ring_bytes:
            at = 0


_NO_OPCODE = -1


def _note(area: memoryview, offset: int, length: int, op: int, opcodes: dict[int, int]) -> None:
    """Note the command of a slot, with the opcode of its CDB where that is still there."""
    cmd_id = CMD_ID.unpack_from(area, offset + CMD_ID_AT)[0]
    if cmd_id in opcodes:
        raise TornRingError(f"command id {cmd_id} stands in two slots")
    mark = area[offset + MARK_AT]
    if mark == MARK_ANSWERING:
        raise TornRingError(f"the answer in the slot at {offset} was never finished")
    if mark == MARK_MOVED:
        opcodes[cmd_id] = _NO_OPCODE
        return
    if op != RingOp.CMD:
        return  # unknown, and refused when it is taken
    (_, _, _, _, count, bidi, dif, cdb_at) = REQUEST.unpack_from(area, offset)
    if IOVECS_AT + IOVEC_BYTES * (count + bidi + dif) > length:
        raise TornRingError(f"{count}+{bidi}+{dif} iovecs in {length} bytes at {offset}")
    if not offset + IOVECS_AT <= cdb_at < offset + length:
        raise TornRingError(f"a CDB at {cdb_at}, outside of its entry at {offset}")
    opcodes[cmd_id] = area[cdb_at]
