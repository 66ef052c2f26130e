"""The LogicalUnit protocol: what a front end needs from a volume, and nothing more.

Owns the words both sides share (access, faults, identity). Must not know how a volume
stores or mirrors its data. Fails by passing a `LunError` to the command's `done`.

Completion is a callback, not an awaitable, so that a command that can be done at once is
done at once: `done` may be called before the method returns, and is called exactly once,
always on the event loop's thread. Buffers handed over belong to the logical unit until then.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LOGICAL_BLOCK_BYTES = 512
PHYSICAL_BLOCK_BYTES = 4096


class LunFault(enum.Enum):
    """Why a command on a logical unit failed, in the terms a host can act on."""

    NOT_READY = "not_ready"
    """The volume can't be used now (it is the target of a reverse resync, or inconsistent)."""
    WRITE_PROTECTED = "write_protected"
    """Reads are fine, writes are refused (an S-VOL that is not split)."""
    FENCED = "fenced"
    """The fence level refuses the write because the mirror can't follow."""
    NO_SPACE = "no_space"
    """The store beneath is full; the write may be partly there, the metadata is whole."""
    READ_ERROR = "read_error"
    """The medium failed a read."""
    WRITE_ERROR = "write_error"
    """The medium failed a write, a discard or a flush."""


class LunError(Exception):
    """A failed command. `fault` says which kind; the text is for logs."""

    def __init__(self, fault: LunFault, detail: str = "") -> None:
        super().__init__(f"{fault.value}: {detail}" if detail else fault.value)
        self.fault = fault
        self.detail = detail


Done = Callable[[LunError | None], None]
"""Called once when a command has ended: None for success, else why it failed."""


class Access(enum.Enum):
    """What initiators may do with the logical unit at this moment."""

    READ_WRITE = "read_write"
    READ_ONLY = "read_only"
    NOT_READY = "not_ready"


class UnitAttention(enum.Enum):
    """Something changed that every initiator has to be told once (SPC-4, 5.14)."""

    CAPACITY_CHANGED = "capacity_changed"
    """CAPACITY DATA HAS CHANGED, 2A/09."""
    DATA_CHANGED = "data_changed"
    """The data was replaced behind the hosts' backs: NOT READY TO READY CHANGE, 28/00."""
    MODE_CHANGED = "mode_changed"
    """The write protection changed: MODE PARAMETERS CHANGED, 2A/01."""


@dataclass(frozen=True, slots=True)
class LunIdentity:
    """How initiators tell one volume from another; stable for the volume's whole life."""

    naa: bytes
    """16 bytes, NAA type 6 (SPC-4, 7.8.6.6); distinct for each volume, or multipath merges them."""
    serial: str
    """Unit serial number, printable ASCII, at most 32 characters."""
    vendor: str = "TRILUN"
    product: str = "VOLUME"
    revision: str = "0001"


class Losses(Protocol):
    """Who may take for kept what it wrote, did not flush, and a power loss took.

    Initiators are named as front ends name their nexuses.
    """

    def owed(self, initiator: str) -> bool:
        """Whether power was lost since this initiator last looked at the unit anew."""

    def settled(self, initiator: str) -> None:
        """It has looked anew. Kept durably, soon."""


class NoLosses:
    """Of a logical unit that doesn't remember power losses."""

    def owed(self, _initiator: str) -> bool:
        """It doesn't know better."""
        return False

    def settled(self, _initiator: str) -> None:
        """Nobody is owed anything."""


class LogicalUnit(Protocol):
    """A block device as a front end sees it. Offsets and lengths are bytes, multiples of 512."""

    @property
    def identity(self) -> LunIdentity:
        """The volume's names."""

    @property
    def size_bytes(self) -> int:
        """Capacity; may grow, never shrinks."""

    @property
    def losses(self) -> Losses:
        """Who may not write or flush."""

    @property
    def access(self) -> Access:
        """What is allowed now; asked for each command, so it must be cheap."""

    def read(self, offset_bytes: int, into: memoryview, done: Done) -> None:
        """Fill `into` with the data at `offset_bytes`."""

    def write(self, offset_bytes: int, data: memoryview, fua: bool, done: Done) -> None:
        """Store `data`; with `fua` it is durable (here, and on the mirror) before `done`."""

    def discard(self, offset_bytes: int, length_bytes: int, done: Done) -> None:
        """Deallocate: the range reads back as zeros afterwards."""

    def flush(self, done: Done) -> None:
        """Make everything acknowledged so far durable (here, and on the mirror)."""
