"""A target node: its name, its logical units, and the sessions that use it.

Owns what sessions of one target share, so that resets and reinstatement reach all of them.
Must not know sockets. Fails with the typed errors below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from targets.iscsi.chap import ChapCredentials
from targets.lun import LogicalUnit, UnitAttention
from targets.naming import is_iscsi_name
from targets.scsi.target import ScsiTarget

if TYPE_CHECKING:
    from targets.iscsi.session import Session


class TargetError(Exception):
    """A target can't be added or removed."""


class TargetBusyError(TargetError):
    """Initiators are logged in."""


class UnknownTargetError(TargetError):
    """There is no target, or no logical unit, of that name."""


@dataclass(frozen=True)
class TargetConfig:
    """One target as it is exported."""

    iqn: str
    luns: Mapping[int, LogicalUnit]
    chap: ChapCredentials | None = None
    alias: str = ""
    initiators: frozenset[str] = frozenset()
    """Names of those that may log in, in lower case; none: every initiator may."""

    def __post_init__(self) -> None:
        if not is_iscsi_name(self.iqn):
            raise ValueError(f"not an iSCSI name: {self.iqn!r}")
        if "\0" in self.alias or len(self.alias.encode()) > 255:
            raise ValueError("an alias has at most 255 bytes and no NUL")

    def admits(self, initiator: str) -> bool:
        """Whether an initiator may log in."""
        return not self.initiators or initiator.lower() in self.initiators


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One initiator that is logged in."""

    initiator: str
    address: str
    isid: str
    tsih: int
    since: float
    """When it logged in, on the server's clock, in seconds."""
    lost_writes: bool
    """Whether its writes are refused behind a power loss, until it looks at a unit anew."""


@dataclass(eq=False)
class TargetNode:
    """One target at run time."""

    config: TargetConfig
    scsi: ScsiTarget = field(init=False)
    sessions: set[Session] = field(default_factory=set, init=False)
    """Sessions that are up, and ended ones whose last commands are still inside a volume."""
    removing: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.scsi = ScsiTarget(self.config.luns)

    def attention(self, lun: int, attention: UnitAttention) -> None:
        """Queue a unit attention to every nexus of a LUN; raises `UnknownTargetError`."""
        server = self.scsi.servers.get(lun)
        if server is None:
            raise UnknownTargetError(f"{self.config.iqn} has no LUN {lun}")
        server.attention(attention)
