"""Exports: which volume is offered under which target name, and who is logged in.

Owns the naming of targets and the contract with a front end. Must not know pairs. The front end
itself (the embedded target, or the kernel's) is handed in by the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.api.messages import SessionInfo
from controller.volume.volume import Volume
from targets.lun import UnitAttention
from targets.naming import IQN_ROOT, plain, target_prefix


def target_name(node: str, volume: str, volume_id: str) -> str:
    """The IQN of a volume (RFC 3722 allows lower-case letters, digits, '-', '.' and ':').

    A name that has to be changed for that keeps apart from others by a piece of the volume's id.
    """
    name = target_prefix(node) + plain(volume)
    if name != f"{IQN_ROOT}:{node}.{volume}":
        name += f".{volume_id[:8]}"
    return name


class Exporter(Protocol):
    """A front end that offers volumes to hosts."""

    @property
    def portals(self) -> list[str]:
        """Addresses initiators connect to, as host:port."""

    def offer(self, iqn: str, volume: Volume, initiators: Sequence[str]) -> None:
        """Export a volume as LUN 0 of its own target, at once or soon.

        `initiators`: those that may log in; none: every initiator may.
        """

    async def ready(self, iqn: str) -> None:
        """Return when initiators can find an offered volume, or when that takes too long.

        Raises RejectedError where it can't be offered, and has to be withdrawn.
        """

    def trouble(self, iqn: str) -> str:
        """Why initiators can't find an offered volume now, in a sentence; nothing when they can."""

    async def withdraw(self, iqn: str, *, force: bool) -> None:
        """Stop exporting; sessions are ended when `force` is set.

        Raises RejectedError when somebody is in the way, with everything as it was.
        """

    async def withdraw_all(self) -> None:
        """For a clean stop: no host can reach a volume, and nothing is under way on return."""

    def sessions(self, iqn: str) -> list[SessionInfo]:
        """Who is logged in."""

    def cut_off_by(self, iqn: str, initiators: Sequence[str]) -> list[SessionInfo]:
        """Who is logged in, and would not be behind `allow`."""

    async def allow(self, iqn: str, initiators: Sequence[str]) -> None:
        """Let these log in from now on, or all when there are none; sessions of others end.

        Raises RejectedError where that isn't so yet. It will be tried again.
        """

    def grown(self, iqn: str) -> None:
        """Tell initiators that a volume has become larger."""

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        """Tell every initiator once."""
