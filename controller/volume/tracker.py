"""The Tracker protocol: what a volume asks of each pair it belongs to (law L6).

Owns the contract between a volume's data path and a pair's side. Every call is made on the
loop, in the step that submits the write, so that the order of the calls is the order of the
volume's content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.volume.intent import Range
from controller.volume.store import StoreDone, StoreError
from controller.volume.write import WriteOp
from targets.lun import Access, LunError, LunFault


class FlushOp(Protocol):
    """A flush in flight; parts are held and ended as a write's."""

    def hold(self) -> None:
        """One more part has to end."""

    def end(self, error: LunError | None = None) -> None:
        """A part has ended."""


class Tracker(Protocol):
    """One side of a pair, as its volume sees it."""

    @property
    def access(self) -> Access:
        """The most this pair allows hosts to do with the volume now."""

    @property
    def wants_generation(self) -> bool:
        """Whether the next write is the first one since the sides parted (law L8)."""

    def begin_generation(self, generation: str) -> None:
        """Note the new generation in the catalogue's record; the volume commits it."""

    def gate(self) -> LunFault | None:
        """The fence: why a host's write must fail now, or None."""

    def mirror_intent(self, ranges: list[Range]) -> None:
        """These ranges will be written soon, and the volume's log is about to say so."""

    def mirror(self, op: WriteOp) -> None:
        """The write has been submitted to the store: send it on, or mark its blocks."""

    def mirror_flush(self, op: FlushOp) -> None:
        """The host wants all it was told is done to be durable on both sides."""

    def store_failed(self, op: WriteOp, error: StoreError) -> None:
        """The store refused the write: its blocks are in doubt, mark them."""

    def volume_failed(self, error: StoreError) -> None:
        """The volume can't be trusted any more (law L10)."""

    def assume_dirty(self, offset_bytes: int, length_bytes: int) -> None:
        """After a crash: the range was hot, so it may differ."""

    def save_bitmap(self, done: StoreDone) -> None:
        """Make this side's bits durable."""


def announce(trackers: Sequence[Tracker], ranges: list[Range]) -> None:
    """Tell every pair what the volume's log is about to say."""
    for tracker in trackers:
        tracker.mirror_intent(ranges)
