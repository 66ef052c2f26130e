"""What a volume needs of its controller, and what the catalogue keeps of it.

Owns the two contracts only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from controller.volume.losses import LossState
from controller.volume.store import StoreDone

if TYPE_CHECKING:
    from controller.volume.volume import Volume


class VolumeState(LossState, Protocol):
    """The durable facts of a volume, as the catalogue keeps them."""

    size_bytes: int
    generation: str
    consistent: bool
    healthy: bool


class VolumeServices(Protocol):
    """What a volume needs of its controller."""

    def commit(self, done: StoreDone) -> None:
        """Make the catalogue's records durable."""

    def soon(self, run: Callable[[], None]) -> object:
        """Call `run` behind what the loop has at hand now."""

    def new_generation(self) -> str:
        """A fresh generation id."""

    def changed(self, volume: Volume) -> None:
        """Something an operator or a host can see has changed."""
