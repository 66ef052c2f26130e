"""Which parts of a volume are marked: what may have been written since a split.

Pure. Owns the answer's bounds. Says more than is so where a mark stands for a doubt; never less.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.api.changed import MAX_EXTENTS, ChangedRanges, Range
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, block_range


def marked_in(bitmaps: Sequence[DirtyBitmap], ranges: Sequence[Range]) -> ChangedRanges:
    """The parts of `ranges` that any of the bitmaps marks; blocks beyond them aren't."""
    found: list[Range] = []
    for offset_bytes, length_bytes in ranges:
        at, end = offset_bytes, offset_bytes + length_bytes
        while at < end:
            run = _next(bitmaps, at, end)
            if run is None:
                break
            if len(found) == MAX_EXTENTS:
                return ChangedRanges(ranges=found, more=True)
            found.append(run)
            at = run[0] + run[1]
    return ChangedRanges(ranges=found)


def _next(bitmaps: Sequence[DirtyBitmap], at: int, end: int) -> Range | None:
    """The first marked stretch from `at` on."""
    first, count = block_range(at, end - at)
    # Looked for in this stretch alone: a search to the next mark may go through the whole volume.
    runs = [
        bitmap.next_run(first, count)
        for bitmap in bitmaps
        if first < bitmap.blocks and bitmap.count_in(first, min(count, bitmap.blocks - first))
    ]
    there = [run for run in runs if run is not None and run[0] * BLOCK_BYTES < end]
    if not there:
        return None
    start, length = min(there)
    start_bytes = max(at, start * BLOCK_BYTES)
    return start_bytes, min(end, (start + length) * BLOCK_BYTES) - start_bytes
