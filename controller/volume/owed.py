"""The blocks that a quick split still owes to its S-VOL, on disk in two copies.

Owns when an old content counts as kept (docs/formats.md, "Owed blocks"). A block is owed while
its bit is set in *both* copies. A bit is cleared in the first copy, made durable, then cleared in
the second, and made durable; only then is the block no longer held, and may be overwritten. So at
any instant at most one copy is being written, and a page that a crash tore or the medium damaged
reads as all ones and leaves the word to the other. A page that is damaged in both copies can't be
known: the owed blocks are lost. Must not know why a block is owed, nor copy it. Fails with
StoreError.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from controller.volume.bitmap import DirtyBitmap
from controller.volume.bitmap_file import BitmapFile, file_bytes
from controller.volume.slots import CorruptError
from controller.volume.store import Disk, StoreDone, StoreError, finished

log = logging.getLogger(__name__)

Runs = Sequence[tuple[int, int]]
"""First block and count, each."""


def owed_names(pair_id: str) -> tuple[str, str]:
    """The files of a pair's two copies."""
    return f"{pair_id}.owed1.bitmap", f"{pair_id}.owed2.bitmap"


class OwedBlocks:
    """The set at work. `held` is what may not be overwritten yet."""

    def __init__(self, copies: list[tuple[DirtyBitmap, BitmapFile]], held: DirtyBitmap) -> None:
        self._copies = copies
        self.held = held

    @classmethod
    async def create(cls, disk: Disk, pair_id: str, owed: DirtyBitmap) -> OwedBlocks:
        """Put a set on disk, durably; what an earlier one left behind is removed before."""
        remove_owed(disk, pair_id)
        copies: list[tuple[DirtyBitmap, BitmapFile]] = []
        try:
            for name in owed_names(pair_id):
                bitmap = _copy_of(owed)
                store = disk.open(name, file_bytes(owed.blocks), create=True, reserve=True)
                copies.append((bitmap, BitmapFile(store, bitmap, bytes.fromhex(pair_id))))
                await copies[-1][1].create()
        except StoreError:
            for _, file in copies:
                file.close()
            with contextlib.suppress(StoreError):
                remove_owed(disk, pair_id)
            raise
        return cls(copies, _copy_of(owed))

    @classmethod
    async def load(cls, disk: Disk, pair_id: str, blocks: int) -> OwedBlocks | None:
        """What a run before has left owed; None when that can't be known."""
        copies: list[tuple[DirtyBitmap, BitmapFile]] = []
        damaged: list[set[int]] = []
        for name in owed_names(pair_id):
            bitmap, pages = DirtyBitmap(blocks), set[int]()
            try:
                store = disk.open(name, file_bytes(blocks), create=False)
            except StoreError as error:
                log.warning("owed blocks: %s can't be opened: %s", name, error)
                for _, file in copies:
                    file.close()
                return None
            copies.append((bitmap, BitmapFile(store, bitmap, bytes.fromhex(pair_id))))
            damaged.append(pages)
            await _read(copies[-1], pages, name)
        held = _copy_of(copies[0][0])
        for first, count in copies[1][0].clear_runs(0, blocks):
            held.clear(first, count)
        loaded = cls(copies, held)
        if damaged[0] & damaged[1]:
            loaded.close()
            return None
        for at, copy in enumerate(copies):
            await _make_equal(copy, held, anew=len(damaged[at]) == held.page_count)
        return loaded

    def discharge(self, kept: Runs, done: StoreDone) -> None:
        """The S-VOL holds these blocks, flushed: they are not held any more when `done` runs.

        One at a time. After an error the set on disk is unknown, and all stays held.
        """
        self._discharge_in(0, kept, done)

    def _discharge_in(self, at: int, kept: Runs, done: StoreDone) -> None:
        bitmap, file = self._copies[at]
        for first, count in kept:
            bitmap.clear(first, count)

        def saved(error: StoreError | None) -> None:
            if error is not None:
                done(error)
            elif at + 1 < len(self._copies):
                self._discharge_in(at + 1, kept, done)
            else:
                for first, count in kept:
                    self.held.clear(first, count)
                done(None)

        file.save(saved)

    def close(self) -> None:
        """Let go of the files."""
        for _, file in self._copies:
            file.close()


def remove_owed(disk: Disk, pair_id: str) -> None:
    """Nothing is owed any more, and nobody will ask."""
    for name in owed_names(pair_id):
        if disk.exists(name):
            disk.remove(name)


def _copy_of(bitmap: DirtyBitmap) -> DirtyBitmap:
    copy = DirtyBitmap(bitmap.blocks)
    copy.union(bitmap)
    copy.changed.clear()
    return copy


async def _read(copy: tuple[DirtyBitmap, BitmapFile], damaged: set[int], name: str) -> None:
    """Load one copy; a damaged page is noted, and all ones."""
    bitmap, file = copy
    try:
        await file.load(damaged.add)
    except CorruptError as error:
        damaged.update(range(bitmap.page_count))
        bitmap.set_all()
        log.warning("owed blocks: %s: %s", name, error)


async def _make_equal(
    copy: tuple[DirtyBitmap, BitmapFile], owed: DirtyBitmap, *, anew: bool
) -> None:
    """Bring a copy to what both say together; the other copy is whole meanwhile."""
    bitmap, file = copy
    for first, count in owed.clear_runs(0, owed.blocks):
        bitmap.clear(first, count)
    if anew:
        await file.create()
    else:
        await finished(file.save)
