"""What makes everything written so far safe to forget: data first, then every pair's bits.

Owns that order. Fails as the store or a bitmap's file does.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.volume.store import JoinedDone, StoreDone, StoreError
from controller.volume.tracker import Tracker


def then_save_bits(trackers: Sequence[Tracker], done: StoreDone) -> StoreDone:
    """To be told that the store is flushed: saves the bits, then calls `done`."""

    def flushed(error: StoreError | None) -> None:
        if error is not None:
            done(error)
            return
        now = list(trackers)
        joined = JoinedDone(len(now) + 1, done)
        for tracker in now:
            tracker.save_bitmap(joined.part)
        joined.part(None)

    return flushed
