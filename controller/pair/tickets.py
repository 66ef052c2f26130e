"""What a side wants to know of the frames of hosts' writes and flushes.

Owns what an acknowledgement and a loss mean for the command behind a frame; no more.
"""

from __future__ import annotations

from typing import Protocol

from controller.volume.tracker import FlushOp
from controller.volume.write import WriteOp
from targets.lun import LunError


class Mirroring(Protocol):
    """The side that sent the frame."""

    def mark(self, offset_bytes: int, length_bytes: int) -> None:
        """Every block the range touches may differ."""

    def fence_error(self) -> LunError | None:
        """How a command that was under way when the mirror failed is answered."""


class Mirrored:
    """The ticket of a host write that was sent to the other side."""

    __slots__ = ("answers", "op", "side")

    def __init__(self, side: Mirroring, op: WriteOp, *, answers: bool) -> None:
        self.side = side
        self.op = op
        self.answers = answers

    def acked(self) -> None:
        """The other side has it."""
        if self.answers:
            self.op.end()
        else:
            self.op.unpin()

    def lost(self) -> None:
        """The other side may lack it: marked, and answered as the fence level says."""
        self.side.mark(self.op.offset_bytes, self.op.length_bytes)
        if self.answers:
            self.op.end(self.side.fence_error())
        else:
            self.op.unpin()


class Flushed:
    """The ticket of a host's flush on the other side."""

    __slots__ = ("flush", "side")

    def __init__(self, side: Mirroring, flush: FlushOp) -> None:
        self.side = side
        self.flush = flush

    def acked(self) -> None:
        """Durable there."""
        self.flush.end()

    def lost(self) -> None:
        """Without the peer the data is durable here, and marked where the peer may lack it."""
        self.flush.end(self.side.fence_error())
