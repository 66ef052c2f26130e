"""Exports: which volume is offered under which target name, and who is logged in.

Owns the naming of targets and the contract with a front end. Must not know pairs. The front end
itself (the embedded target now) is handed in by the daemon.
"""

from __future__ import annotations

import re
from typing import Protocol

from controller.api.messages import SessionInfo
from controller.volume.volume import Volume
from targets.lun import UnitAttention

IQN_ROOT = "iqn.2026-11.io.trilun"


def target_name(node: str, volume: str, volume_id: str) -> str:
    """The IQN of a volume (RFC 3722 allows lower-case letters, digits, '-', '.' and ':').

    A name that has to be changed for that keeps apart from others by a piece of the volume's id.
    """
    plain = f"{node}.{volume}".lower()
    safe = re.sub(r"[^a-z0-9.-]", "-", plain)
    if safe != f"{node}.{volume}":
        safe += f".{volume_id[:8]}"
    return f"{IQN_ROOT}:{safe}"


class Exporter(Protocol):
    """A front end that offers volumes to hosts."""

    @property
    def portals(self) -> list[str]:
        """Addresses initiators connect to, as host:port."""

    def offer(self, iqn: str, volume: Volume) -> None:
        """Export a volume as LUN 0 of its own target."""

    async def withdraw(self, iqn: str, *, force: bool) -> None:
        """Stop exporting; sessions are ended when `force` is set."""

    def sessions(self, iqn: str) -> list[SessionInfo]:
        """Who is logged in."""

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        """Tell every initiator once."""
