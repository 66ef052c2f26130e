"""A logical unit as the device server sees it: its limits, nexuses and software write protect.

Owns what all commands on one logical unit share. Must not know opcodes or a transport.
Fails by raising `SenseError` from its checks.
"""

from __future__ import annotations

from targets.lun import LOGICAL_BLOCK_BYTES, Access, LogicalUnit
from targets.scsi.command import Nexus
from targets.scsi.sense import (
    CACHE_LOST,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    NOT_READY,
    WRITE_PROTECTED,
    Sense,
    SenseError,
)

MAX_TRANSFER_BLOCKS = (16 << 20) // LOGICAL_BLOCK_BYTES
MAX_UNMAP_BLOCKS = (512 << 20) // LOGICAL_BLOCK_BYTES
MAX_UNMAP_DESCRIPTORS = 256
MAX_WRITE_SAME_BLOCKS = (16 << 20) // LOGICAL_BLOCK_BYTES


class Unit:
    """State shared by every nexus of one logical unit."""

    __slots__ = ("lu", "nexuses", "software_write_protect")

    def __init__(self, lu: LogicalUnit) -> None:
        self.lu = lu
        self.nexuses: set[Nexus] = set()
        self.software_write_protect = False
        """SWP of the control mode page; volatile, changed by MODE SELECT."""

    @property
    def blocks(self) -> int:
        """Capacity in logical blocks."""
        return self.lu.size_bytes // LOGICAL_BLOCK_BYTES

    @property
    def write_protected(self) -> bool:
        """Whether media writes are refused now."""
        return self.software_write_protect or self.lu.access is not Access.READ_WRITE

    def attention(self, sense: Sense, *, but: Nexus | None = None) -> None:
        """Queue a unit attention to every nexus, except the one that caused it."""
        for nexus in self.nexuses:
            if nexus is not but:
                nexus.queue(sense)

    def check_kept(self, nexus: Nexus) -> None:
        """Raise WRITE ERROR to an initiator that may take for kept what is gone (law L5).

        POWER ON OCCURRED tells the same (SBC-3, 4.15), but initiators are known to repeat a flush
        behind it as if nothing had happened, and file systems to overlook one flush that failed.
        """
        if nexus.lost_writes:
            raise SenseError(CACHE_LOST)

    def looked_at(self, nexus: Nexus) -> None:
        """This initiator looks at the unit as if for the first time: it takes nothing for kept."""
        if nexus.lost_writes:
            nexus.lost_writes = False
            self.lu.losses.settled(nexus.name)

    def check_readable(self) -> None:
        """Raise NOT READY when the medium can't be accessed."""
        if self.lu.access is Access.NOT_READY:
            raise SenseError(NOT_READY)

    def check_writable(self, nexus: Nexus) -> None:
        """Raise NOT READY, DATA PROTECT or WRITE ERROR when it can't write to the medium."""
        self.check_kept(nexus)
        access = self.lu.access
        if access is Access.NOT_READY:
            raise SenseError(NOT_READY)
        if access is Access.READ_ONLY or self.software_write_protect:
            raise SenseError(WRITE_PROTECTED)

    def check_extent(self, lba: int, blocks: int, limit_blocks: int = 1 << 64) -> None:
        """Raise LBA OUT OF RANGE, or INVALID FIELD for more than `limit_blocks` (SBC-3, 6.6.4)."""
        if lba + blocks > self.blocks:
            raise SenseError(LBA_OUT_OF_RANGE, lba)
        if blocks > limit_blocks:
            raise SenseError(INVALID_FIELD_IN_CDB)
