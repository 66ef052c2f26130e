"""Which parts of a file may differ between a backup and now, told by places and marks.

Pure. Owns the rule: a stretch that lies in the same place on the volume, then and now, differs
only in blocks that were written since, and those are marked. What lies elsewhere has to be
compared; what is a hole on both sides reads as zeros on both. Ranges are (offset, length) in
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from controller.api.changed import ChangedRanges, Extent, Range


@dataclass(frozen=True, slots=True)
class Places:
    """How a file lies then and now."""

    moved: list[Range]
    """Ranges of the file that lie elsewhere, or on one side only."""
    kept: list[Extent]
    """Stretches that lie where they lay."""

    @property
    def asked(self) -> list[Range]:
        """Where marks have to be looked for: ranges of the volume, in order."""
        return [(each.place_bytes, each.length_bytes) for each in _by_place(self.kept)]


def places(then: Sequence[Extent], now: Sequence[Extent], size_bytes: int) -> Places:
    """Compare two maps of a file of that size, each in the file's order."""
    edges = {0, size_bytes}
    for each in (*then, *now):
        edges |= {each.offset_bytes, each.offset_bytes + each.length_bytes}
    cuts = sorted(edge for edge in edges if edge <= size_bytes)
    moved: list[Range] = []
    kept: list[Extent] = []
    for start, end in pairwise(cuts):
        one, two = _place(then, start), _place(now, start)
        if one is not None and one == two:
            kept.append(Extent(offset_bytes=start, length_bytes=end - start, place_bytes=one))
        elif one != two:
            moved.append((start, end - start))
    return Places(moved, kept)


def suspects(found: Places, marked: ChangedRanges) -> list[Range]:
    """The ranges of the file that have to be compared, in order."""
    ranges = list(found.moved)
    known_to = max((at + length for at, length in marked.ranges), default=0)
    for each in _by_place(found.kept):
        end = each.place_bytes + each.length_bytes
        shift = each.offset_bytes - each.place_bytes
        for at, length in marked.ranges:
            first, last = max(at, each.place_bytes), min(at + length, end)
            if first < last:
                ranges.append((first + shift, last - first))
        if marked.more and end > known_to:
            first = max(each.place_bytes, known_to)
            ranges.append((first + shift, end - first))
    return _merged(ranges)


def _by_place(kept: list[Extent]) -> list[Extent]:
    return sorted(kept, key=lambda each: each.place_bytes)


def _place(extents: Sequence[Extent], at: int) -> int | None:
    """Where the byte of the file lies; None in a hole."""
    low, high = 0, len(extents)
    while low < high:
        middle = (low + high) // 2
        if extents[middle].offset_bytes <= at:
            low = middle + 1
        else:
            high = middle
    if not low:
        return None
    each = extents[low - 1]
    inside = at - each.offset_bytes
    return each.place_bytes + inside if inside < each.length_bytes else None


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for at, length in sorted(ranges):
        if merged and at <= merged[-1][0] + merged[-1][1]:
            first, before = merged[-1]
            merged[-1] = (first, max(before, at + length - first))
        else:
            merged.append((at, length))
    return merged
