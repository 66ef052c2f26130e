"""A SCSI command between a front end and the device server, and the I_T nexus it came by.

Owns the data both sides share while a command runs. Must not know a transport: a front end
derives from `Command` and overrides `completed`, which is called exactly once.
Fails never; a failed command carries its status and sense data.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Sequence

from targets.lun import LunError
from targets.scsi.sense import FAULT_SENSE, Sense, Status, fixed_format

MAX_ATTENTIONS = 16


class Nexus:
    """One initiator's view of one logical unit: the unit attentions it has still to hear.

    The queue is bounded and holds a condition once; when it is full the newest is dropped,
    because the initiator has to re-read everything by then anyway.
    """

    __slots__ = ("attentions", "lost_writes", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.attentions: deque[Sense] = deque()
        self.lost_writes = False
        """Whether it may take writes for kept that a power loss took."""

    def queue(self, sense: Sense) -> None:
        """Report `sense` on the next command that may carry it."""
        if sense not in self.attentions and len(self.attentions) < MAX_ATTENTIONS:
            self.attentions.append(sense)


class Command(abc.ABC):
    """One command. The front end fills in the upper half, the device server the lower.

    `data_out` holds what the initiator sent (possibly less than the CDB asks for), `data_in`
    the room for a media read, rounded up to whole blocks; both may be in several segments.
    """

    __slots__ = (
        "asked_bytes",
        "cdb",
        "data_in",
        "data_out",
        "in_bytes",
        "nexus",
        "offered_bytes",
        "pending",
        "reply",
        "sense",
        "status",
    )

    cdb: bytes
    """Sixteen bytes, padded with zeros."""
    nexus: Nexus
    data_out: Sequence[memoryview]
    data_in: Sequence[memoryview]
    offered_bytes: int
    """Data-out the initiator has announced; `data_out` may be less where the CDB asks for less."""

    status: int
    sense: bytes
    reply: bytes
    """Parameter data, already cut to the allocation length; empty for media reads."""
    in_bytes: int
    """How much of `data_in` was filled."""
    asked_bytes: int
    """What the CDB would transfer; against the front end's expectation it gives the residual."""
    pending: int
    """Operations of the logical unit that have yet to call back."""

    def __init__(self) -> None:
        self.data_out = ()
        self.data_in = ()
        self.offered_bytes = 0
        self.status = 0
        self.sense = b""
        self.reply = b""
        self.in_bytes = 0
        self.asked_bytes = 0
        self.pending = 0

    @abc.abstractmethod
    def completed(self) -> None:
        """The command has ended; status and data stand in the fields above."""

    def good(self) -> None:
        """End with GOOD and no parameter data."""
        self.completed()

    def answer(self, data: bytes, allocation_bytes: int) -> None:
        """End with GOOD and `data`, cut to the CDB's allocation length."""
        self.reply = data[:allocation_bytes]
        self.asked_bytes = len(self.reply)
        self.completed()

    def fail(self, sense: Sense, information: int | None = None) -> None:
        """End with CHECK CONDITION."""
        self.status = Status.CHECK_CONDITION
        self.sense = fixed_format(sense, information)
        self.asked_bytes = 0
        self.in_bytes = 0
        self.completed()

    def unit_done(self, error: LunError | None) -> None:
        """The logical unit's `done` for a command of one operation."""
        if error is None:
            self.completed()
        else:
            self.fail(FAULT_SENSE[error.fault])

    def segment_done(self, error: LunError | None) -> None:
        """The logical unit's `done` for one of `pending` operations; the first fault counts."""
        self.pending -= 1
        if error is not None and not self.status:
            self.status = Status.CHECK_CONDITION
            self.sense = fixed_format(FAULT_SENSE[error.fault])
            self.asked_bytes = 0
            self.in_bytes = 0
        if self.pending == 0:
            self.completed()

    def parameter_list(self) -> bytes:
        """All of the data-out segments in one piece (MODE SELECT, UNMAP: small)."""
        return b"".join(self.data_out)
