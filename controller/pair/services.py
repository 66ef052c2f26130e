"""What a pair's owner needs of its controller.

Owns the contract only; `controller.pairs` fulfils it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from controller.api.messages import Role
from controller.pair import messages as msg
from controller.pair.side import PairSide
from controller.volume.owed import OwedBlocks
from controller.volume.store import SharingStore


class PairServices(Protocol):
    """What an owner needs of its controller."""

    @property
    def node(self) -> str:
        """The controller's name."""

    async def commit(self) -> None:
        """Make the catalogue durable; StoreError when that fails."""

    def changed(self, side: PairSide) -> None:
        """The pair's shown state has changed."""

    def use_of(self, side: PairSide) -> str:
        """Why this side's volume can't be the target of a copy now, or an empty text."""

    def initiators_of(self, side: PairSide) -> int:
        """How many hosts are logged in to this side's volume."""

    async def guard(self, side: PairSide) -> None:
        """Before the volume becomes inconsistent: split what mirrors it, and keep that (L7)."""

    def in_sync(self, side: PairSide) -> None:
        """The volume is consistent again: what was split by the guard may resume."""

    def data_replaced(self, side: PairSide) -> None:
        """Hosts have to be told that the data changed behind their backs (L12)."""

    def mark_local(
        self, side: PairSide, mark: msg.Mark, reply: Callable[[msg.Marked], None]
    ) -> None:
        """Split a local pair behind this side, now."""

    def unmark_local(self, side: PairSide, unmark: msg.Unmark) -> None:
        """A local pair that was split for a backup that didn't come about follows again."""

    def role_changed(self, side: PairSide, was: Role) -> None:
        """This side has another role."""

    async def owe(self, side: PairSide) -> OwedBlocks:
        """Put on disk what a quick split owes to the S-VOL: all that is marked now."""

    def shares(self, side: PairSide) -> SharingStore | None:
        """The S-VOL's store of a local pair, where it may share blocks with the P-VOL's."""

    def release(self, side: PairSide) -> None:
        """Nothing is owed any more: no write has to wait for that."""

    async def forget(self, side: PairSide) -> None:
        """The pair is dissolved: remove its record and bitmap."""
