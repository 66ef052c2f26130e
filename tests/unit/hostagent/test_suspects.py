"""Which parts of a file have to be compared: nothing that differs is ever left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.changed import MAX_EXTENTS, Extent
from controller.marked import marked_in
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap
from hostagent.looking.suspects import places, suspects

pytestmark = pytest.mark.plain

FILE_BLOCKS = 12
VOLUME_BLOCKS = 40
PLACES = st.lists(
    st.none() | st.integers(0, VOLUME_BLOCKS - 1),
    min_size=FILE_BLOCKS,
    max_size=FILE_BLOCKS,
).filter(
    lambda found: len({p for p in found if p is not None}) == sum(p is not None for p in found)
)


def _distinct(places: list[int]) -> bool:
    return len(set(places)) == len(places)


def extents(placed: list[int | None]) -> list[Extent]:
    """A block's place, or a hole; neighbours are one extent."""
    found: list[Extent] = []
    for block, place in enumerate(placed):
        if place is None:
            continue
        at, there = block * BLOCK_BYTES, place * BLOCK_BYTES
        last = found[-1] if found else None
        end = last and (last.offset_bytes + last.length_bytes, last.place_bytes + last.length_bytes)
        if last is not None and end == (at, there):
            grown = last.length_bytes + BLOCK_BYTES
            found[-1] = last.model_copy(update={"length_bytes": grown})
        else:
            found.append(Extent(offset_bytes=at, length_bytes=BLOCK_BYTES, place_bytes=there))
    return found


@given(PLACES, st.data())
def test_whatever_differs_is_compared(then: list[int | None], data: st.DataObject) -> None:
    moved = data.draw(st.booleans())
    now = data.draw(PLACES) if moved else then
    size_bytes = data.draw(st.integers(1, FILE_BLOCKS * BLOCK_BYTES))
    written = data.draw(st.sets(st.integers(0, VOLUME_BLOCKS - 1)))
    bitmap = DirtyBitmap(VOLUME_BLOCKS)
    for block in written:
        bitmap.set(block, 1)
    found = places(extents(then), extents(now), size_bytes)
    ranges = suspects(found, marked_in([bitmap], found.asked))
    for block in range(-(-size_bytes // BLOCK_BYTES)):
        one, two = then[block], now[block]
        may_differ = one != two or (one is not None and one in written)
        at = block * BLOCK_BYTES
        covered = any(a <= at and min(at + BLOCK_BYTES, size_bytes) <= a + n for a, n in ranges)
        assert covered == may_differ, (block, ranges)
    assert all(at + length <= size_bytes for at, length in ranges)


@given(
    st.lists(st.sets(st.integers(0, 99)), min_size=1, max_size=2),
    st.lists(
        st.tuples(st.integers(0, 99 * BLOCK_BYTES), st.integers(1, 9 * BLOCK_BYTES)), max_size=5
    ),
)
def test_marks_are_told_as_they_are(marked: list[set[int]], asked: list[tuple[int, int]]) -> None:
    bitmaps = []
    for blocks in marked:
        bitmap = DirtyBitmap(100)
        for block in blocks:
            bitmap.set(block, 1)
        bitmaps.append(bitmap)
    answer = marked_in(bitmaps, asked)
    told = {
        at // BLOCK_BYTES + n
        for at, length in answer.ranges
        for n in range(-(-(at % BLOCK_BYTES + length) // BLOCK_BYTES))
    }
    wanted = set()
    for offset, length in asked:
        wanted |= set(range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)))
    assert told == wanted & set().union(*marked)
    assert not answer.more


def test_what_there_was_no_room_to_tell_is_compared() -> None:
    blocks = 3 * MAX_EXTENTS
    bitmap = DirtyBitmap(blocks)
    for block in range(0, blocks, 2):
        bitmap.set(block, 1)
    size_bytes = blocks * BLOCK_BYTES
    whole = [Extent(offset_bytes=0, length_bytes=size_bytes, place_bytes=0)]
    found = places(whole, whole, size_bytes)
    answer = marked_in([bitmap], found.asked)
    assert (len(answer.ranges), answer.more) == (MAX_EXTENTS, True)
    last, length = suspects(found, answer)[-1]
    assert last + length == size_bytes
    assert length > size_bytes // 4
