"""What attaching a LUN is, whichever initiator does it.

Owns the protocol and its words. Must not know a particular initiator. Every call blocks and
belongs in a thread; every call is idempotent, also after the agent was killed in the middle of
it: `attach` finds what is there already, `detach` of nothing does nothing. Fails with HostError.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controller.api.messages import VolumeInfo
from hostagent.errors import HostError


@dataclass(frozen=True, slots=True)
class LunAddress:
    """Where a LUN is. `portal` is `host:port`, IPv6 in square brackets."""

    portal: str
    iqn: str
    lun: int


@dataclass(frozen=True, slots=True)
class Device:
    """An attached LUN on this host."""

    path: Path
    is_block: bool
    """A block device; else a file that has to go through a loop device to be mounted."""


class Attacher(Protocol):
    """An initiator. `key` names one attachment on this host, for its whole life."""

    def attach(self, key: str, address: LunAddress, *, writable: bool) -> Device:
        """Make the LUN usable; a stale attachment under the same key is replaced."""

    def attached(self, key: str, address: LunAddress) -> Device | None:
        """The device of a live attachment of exactly that LUN, or None."""

    def detach(self, key: str, *, abandon: bool = False) -> None:
        """Flush to the LUN's SYNCHRONIZE CACHE, log out, and forget every cached page.

        Raises UnflushedError, still attached; with `abandon` what can't be flushed is given up.
        """

    def drop_caches(self, key: str) -> None:
        """Forget clean cached pages, so that the next read comes from the LUN."""


def address_of(volume: VolumeInfo) -> LunAddress:
    """Where a volume is exported; raises HostError when it isn't."""
    if volume.target is None or not volume.portals:
        raise HostError(
            f"volume '{volume.name}' on {volume.node} is not exported",
            f"look at `trilun volume show {volume.name}`",
        )
    return LunAddress(volume.portals[0], volume.target, volume.lun)
