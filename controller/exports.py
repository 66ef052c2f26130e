"""Exports: which volume is offered under which target name, and who is logged in.

Owns the naming of targets and the contract with a front end. Must not know pairs. The front end
itself (the embedded target, or the kernel's) is handed in by the daemon.
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
    name = target_prefix(node) + _plain(volume)
    if name != f"{IQN_ROOT}:{node}.{volume}":
        name += f".{volume_id[:8]}"
    return name


def target_prefix(node: str) -> str:
    """How the target names of a node begin."""
    return f"{IQN_ROOT}:{_plain(node)}."


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.-]", "-", name.lower())


class Exporter(Protocol):
    """A front end that offers volumes to hosts."""

    @property
    def portals(self) -> list[str]:
        """Addresses initiators connect to, as host:port."""

    def offer(self, iqn: str, volume: Volume) -> None:
        """Export a volume as LUN 0 of its own target, at once or soon."""

    async def ready(self, iqn: str) -> None:
        """Return when initiators can find an offered volume, or when that takes too long."""

    async def withdraw(self, iqn: str, *, force: bool) -> None:
        """Stop exporting; sessions are ended when `force` is set.

        Raises RejectedError when somebody is in the way, with everything as it was.
        """

    async def withdraw_all(self) -> None:
        """For a clean stop: no host can reach a volume, and nothing is under way on return."""

    def sessions(self, iqn: str) -> list[SessionInfo]:
        """Who is logged in."""

    def grown(self, iqn: str) -> None:
        """Tell initiators that a volume has become larger."""

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        """Tell every initiator once."""
