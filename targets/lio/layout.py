"""The shared memory between the kernel's TCMU backstore and us: offsets, flags, the mailbox.

Owns the numbers of the ABI (Linux, include/uapi/linux/target_core_user.h, mailbox version 2;
the same in 6.1 and 6.12) and the check that a mapping is one we can serve. Must not walk
entries. Fails with `MailboxError`, before anything is served.

All numbers are in the machine's own byte order. Head and tail are read and written as whole
aligned words: `struct` with an explicit byte order moves single bytes, which tears.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

MAILBOX_VERSION = 2
MAILBOX_BYTES = 128

CAN_COMPLETE_OUT_OF_ORDER = 1
CAN_READ_LEN = 2
CAN_TMR = 4
CAN_KEEP_BUF = 8
"""Known, and left off. A kept buffer outlives its command until its id is written to a
configfs file: a blocking system call for each command, dearer than what it would save. Nothing
here needs a buffer after `done`."""

HEAD_WORD = 3
"""cmd_head as an index of 32-bit words: written by the kernel alone."""
TAIL_WORD = 16
"""cmd_tail, on a cache line of its own: written by us alone."""

ALIGN_BYTES = 8
HEADER_BYTES = 8
LENGTH_MASK = 0xFFFFFFF8
OP_MASK = 7

# Offsets inside an entry.
CMD_ID_AT = 4
UFLAGS_AT = 7
IOVECS_AT = 48
SENSE_AT = 16
SENSE_BYTES = 96
COMMAND_BYTES = SENSE_AT + SENSE_BYTES
"""The shortest command entry: an answer has to fit over the request."""
TMR_IDS_AT = 32

MARK_AT = 11
"""A byte of our own: the top of the request's iov_cnt, and padding in the answer. The kernel
doesn't read it back; a request can't have it set, as no entry holds 16 million iovecs."""
MARK_ANSWERING = 0xFF
"""An answer is written over this slot, or has been."""
MARK_MOVED = 0xFE
"""The slot stands for a command whose request was overwritten further back; its id is right."""

HEADER = struct.Struct("=IHBB")
REQUEST = struct.Struct("=IHBBIII4xQ")
"""len_op, cmd_id, kflags, uflags, iov_cnt, iov_bidi_cnt, iov_dif_cnt, cdb_off."""
IOVEC_BYTES = 16
CMD_ID = struct.Struct("=H")
ANSWER = struct.Struct("=BBBHI")
"""From `UFLAGS_AT`: uflags, scsi_status, padding, padding with our mark, read_len."""
TMR = struct.Struct("=B3xI")
"""From 8: type, number of command ids."""
ANSWER_MARK = int.from_bytes(struct.pack("=BB", 0, MARK_ANSWERING), "little")
if struct.pack("=H", 1)[0] != 1:  # a big-endian machine
    ANSWER_MARK = MARK_ANSWERING


class RingOp(enum.IntEnum):
    """What an entry is."""

    PAD = 0
    CMD = 1
    TMR = 2


_SHORTEST: dict[int, int] = {RingOp.PAD: HEADER_BYTES, RingOp.TMR: TMR_IDS_AT}

UFLAG_UNKNOWN_OP = 1
UFLAG_READ_LEN = 2


class TmrKind(enum.IntEnum):
    """Task management as the kernel reports it, after the fact and for information."""

    UNKNOWN = 0
    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LUN_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    LUN_RESET_PRO = 128


class TcmuError(Exception):
    """The kernel's side of a TCMU device can't be worked with."""


class MailboxError(TcmuError):
    """The mapping is not a ring that we can serve."""


class TornRingError(TcmuError):
    """What stands in the ring contradicts itself; only a reset of the ring helps."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The geometry of one mapping."""

    flags: int
    ring_at: int
    """Where the command ring begins, in bytes from the start of the mapping."""
    ring_bytes: int
    data_at: int
    """Where the data area begins: what is below is never data."""
    total_bytes: int

    @property
    def has_read_len(self) -> bool:
        """The kernel takes the length of what was read."""
        return bool(self.flags & CAN_READ_LEN)


_FIXED = struct.Struct("=HHII")


def read_mailbox(area: memoryview) -> Mailbox:
    """The mailbox of a mapping (`area`: all of it, bytes); raises `MailboxError`."""
    total = len(area)
    if area.format != "B" or area.readonly:
        raise MailboxError("the mapping must be writable bytes")
    if total < MAILBOX_BYTES:
        raise MailboxError(f"a mapping of {total} bytes has no room for a mailbox")
    version, flags, ring_at, ring_bytes = _FIXED.unpack_from(area, 0)
    if version != MAILBOX_VERSION:
        raise MailboxError(f"mailbox version {version}, not {MAILBOX_VERSION}")
    if not flags & CAN_COMPLETE_OUT_OF_ORDER:
        raise MailboxError("the kernel can't take answers out of order (Linux 4.6 can)")
    if ring_at < MAILBOX_BYTES or ring_at % ALIGN_BYTES or ring_bytes % ALIGN_BYTES:
        raise MailboxError(f"a ring of {ring_bytes} bytes at {ring_at} is not aligned")
    if ring_bytes < 2 * COMMAND_BYTES or ring_at + ring_bytes > total:
        raise MailboxError(f"a ring of {ring_bytes} bytes at {ring_at} of {total}")
    return Mailbox(flags, ring_at, ring_bytes, ring_at + ring_bytes, total)


def entry_length(area: memoryview, mailbox: Mailbox, at: int, head: int) -> tuple[int, int]:
    """Opcode and length of the entry at `at` (not equal to `head`); raises `TornRingError`.

    Both are positions in the ring. An entry neither wraps nor reaches beyond the head, and has
    the fixed part of its kind; what isn't PAD or TMR has room for an answer.
    """
    size = mailbox.ring_bytes
    if head >= size or head % ALIGN_BYTES:
        raise TornRingError(f"cmd_head {head} in a ring of {size} bytes")
    len_op = HEADER.unpack_from(area, mailbox.ring_at + at)[0]
    length = len_op & LENGTH_MASK
    if not HEADER_BYTES <= length <= (head if head > at else size) - at:
        raise TornRingError(f"an entry of {length} bytes at {at}, head {head}, ring {size}")
    op = len_op & OP_MASK
    if length < _SHORTEST.get(op, COMMAND_BYTES):
        raise TornRingError(f"an entry of kind {op} and {length} bytes at {at}")
    return op, length


def aborted_by(area: memoryview, offset: int, length: int) -> tuple[int, tuple[int, ...]]:
    """Kind and command ids of the TMR entry at `offset`; raises `TornRingError`."""
    kind, count = TMR.unpack_from(area, offset + 8)
    if TMR_IDS_AT + 2 * count > length:
        raise TornRingError(f"a TMR entry of {length} bytes with {count} ids at {offset}")
    return kind, tuple(area[offset + TMR_IDS_AT : offset + TMR_IDS_AT + 2 * count].cast("H"))
