"""One SCSI command on its way through a session: its tags, its buffer, what data has come.

Owns the data-out state of a command (RFC 7143, 4.2.4.1 and 11.7). Must not send anything itself.
Fails by naming the sense its command has to end with.
"""

from __future__ import annotations

import enum
from typing import Protocol

from targets.iscsi.buffers import Buffer
from targets.iscsi.pdu import NO_TAG
from targets.scsi.command import Command
from targets.scsi.device import DeviceServer
from targets.scsi.sense import INCORRECT_AMOUNT_OF_DATA, PROTOCOL_SERVICE_CRC, Sense


class Stage(enum.IntEnum):
    """Where a task stands."""

    RECEIVING = 0
    RUNNING = 1
    ENDED = 2


class Owner(Protocol):
    """The session a task belongs to."""

    def task_completed(self, task: Task) -> None:
        """The device server has ended the command."""

    def release(self, task: Task) -> None:
        """The task's buffer is no longer needed."""


class Task(Command):
    """A command, as iSCSI carries it."""

    __slots__ = (
        "aborted",
        "buffer",
        "burst_end",
        "data_sn",
        "expected_bytes",
        "immediate",
        "is_read",
        "itt",
        "lun",
        "owner",
        "placing",
        "r2t_sn",
        "received_bytes",
        "server",
        "spill",
        "stage",
        "ttt",
        "unsolicited_left",
        "wanted_bytes",
    )

    def __init__(self, owner: Owner, itt: int, lun: int, server: DeviceServer | None) -> None:
        self.data_out = ()
        self.data_in = ()
        self.offered_bytes = 0
        self.status = 0
        self.sense = b""
        self.reply = b""
        self.in_bytes = 0
        self.asked_bytes = 0
        self.pending = 0
        self.owner = owner
        self.itt = itt
        self.lun = lun
        self.server = server
        self.stage = Stage.RECEIVING
        self.aborted = False
        self.placing = False
        self.immediate = False
        self.is_read = False
        self.buffer: Buffer | None = None
        self.expected_bytes = 0
        """Expected Data Transfer Length."""
        self.wanted_bytes = 0
        """Data-out that the CDB asks for and the initiator offers."""
        self.received_bytes = 0
        self.unsolicited_left = -1
        """What may still come without an R2T; negative once the final bit was seen."""
        self.ttt = NO_TAG
        self.burst_end = 0
        self.data_sn = 0
        self.r2t_sn = 0
        self.spill: bytearray | None = None
        """Unsolicited data that came while no buffer was free."""

    def completed(self) -> None:
        """Tell the session."""
        self.owner.task_completed(self)

    def release(self) -> None:
        """The answer has left: give the buffer back."""
        self.owner.release(self)

    def check_data_out(
        self, ttt: int, data_sn: int, offset: int, length: int, final: bool
    ) -> Sense | None:
        """What is wrong with a Data-Out PDU: order, tag, or amount. None: it may be taken."""
        if data_sn != self.data_sn or offset != self.received_bytes:
            return PROTOCOL_SERVICE_CRC
        if ttt == NO_TAG:
            over = length > self.unsolicited_left or self.unsolicited_left < 0
            return INCORRECT_AMOUNT_OF_DATA if over else None
        end = offset + length
        if ttt != self.ttt or end > self.burst_end or (final and end != self.burst_end):
            return INCORRECT_AMOUNT_OF_DATA
        return None

    def take(self, data: memoryview, *, placed: bool = False) -> None:
        """Keep data that came in order; what the CDB doesn't ask for is only counted."""
        start = self.received_bytes
        self.received_bytes = start + len(data)
        end = min(self.received_bytes, self.wanted_bytes)
        if placed or end <= start:
            return
        if self.buffer is not None:
            self.buffer.view[start:end] = data[: end - start]
        else:
            if self.spill is None:
                self.spill = bytearray()
            self.spill += data[: end - start]
