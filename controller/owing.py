"""Copies behind quick splits, from a controller's start to its stop.

Owns when the gate before a P-VOL's writes is put up and taken away, the files of what is owed, and
whether the S-VOL's store may share blocks.
Must not decide what becomes of a split: its owner does (`controller.pair.quick`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from controller.pair.owner import PairOwner
from controller.pair.side import PairSide
from controller.volume.owed import OwedBlocks, remove_owed
from controller.volume.store import Disk, SharingStore, StoreError, reached

log = logging.getLogger(__name__)

DRAIN_WITHIN_S = 10.0
"""How long a clean stop waits for writes that wait for what is copied first."""


async def take_up_owed(disk: Disk, owner: PairOwner) -> None:
    """At a start: what was owed is held again, before anything may be written."""
    side = owner.side
    owed = await OwedBlocks.load(disk, side.record.id, side.bitmap.blocks)
    if owed is None:
        # Nothing can be held that nobody knows: the owner gives the copy up when it starts.
        log.warning("pair %s: what its quick split owes can't be read", side.record.name)
        # So that no later start finds it readable again, with blocks overwritten meanwhile.
        remove_owed(disk, side.record.id)
        return
    owner.quick.shut().owed = owed


def sharing_store(target: PairSide) -> SharingStore | None:
    """The S-VOL's store, where it is of a kind that may share blocks."""
    store = target.volume.store
    return store if isinstance(store, SharingStore) else None


async def stop_behind(sides: Iterable[PairSide]) -> None:
    """At a clean stop, with hosts and peers gone: let the last writes pass, then copy no more."""
    behind = [(side, side.behind) for side in sides if side.behind is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_WITHIN_S):
            for side, _ in behind:
                await reached(side.volume.drained)
    for _, copying in behind:
        copying.stop()


def close_owed(side: PairSide) -> None:
    """Let go of the files; what is owed stays on disk."""
    if side.behind is not None and side.behind.owed is not None:
        side.behind.owed.close()


def release(disk: Disk, side: PairSide) -> None:
    """Take the gate away, and what is owed off the disk."""
    behind = side.behind
    if behind is not None:
        behind.stop()
        close_owed(side)
        side.behind = None
        side.volume.gates.remove(behind)
    try:
        remove_owed(disk, side.record.id)
    except StoreError as error:
        log.warning("pair %s: %s; the next quick split tries again", side.record.name, error)
    if behind is not None:
        side.volume.gate_opened()
