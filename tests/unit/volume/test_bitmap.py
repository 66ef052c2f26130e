"""The dirty bitmap against a set, and its file against damage."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.volume.bitmap import BLOCK_BYTES, PAGE_BITS, DirtyBitmap, block_range
from controller.volume.bitmap_file import (
    SLOT_BYTES,
    BitmapFile,
    decode_page,
    encode_header,
    encode_page,
    file_bytes,
)
from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.slots import CorruptError
from tests.unit.volume.memory import MemoryStore

BLOCKS = PAGE_BITS * 2 + 777
PAIR = bytes(range(16))

ranges = st.tuples(
    st.integers(0, BLOCKS - 1) | st.integers(PAGE_BITS - 5, PAGE_BITS + 5),
    st.integers(0, 400) | st.just(PAGE_BITS),
)
operations = st.lists(st.tuples(st.sampled_from(["set", "clear"]), ranges), max_size=12)


@settings(max_examples=40, deadline=None)
@given(operations)
def test_a_bitmap_is_a_set_of_blocks(steps: list[tuple[str, tuple[int, int]]]) -> None:
    bitmap, model = DirtyBitmap(BLOCKS), set[int]()
    for what, (first, count) in steps:
        count = min(count, BLOCKS - first)
        blocks = set(range(first, first + count))
        if what == "set":
            bitmap.set(first, count)
            model |= blocks
        else:
            bitmap.clear(first, count)
            model -= blocks
        assert bitmap.count_in(first, count) == len(model & blocks)
    assert len(bitmap) == len(model)
    found = {block for first, count in bitmap.runs() for block in range(first, first + count)}
    assert found == model
    short = list(bitmap.runs(max_blocks=7))
    assert all(count <= 7 for _, count in short)
    assert {block for first, count in short for block in range(first, first + count)} == model
    other = DirtyBitmap(BLOCKS)
    other.set(0, 3)
    other.union(bitmap)
    assert len(other) == len(model | {0, 1, 2})
    assert all(other.test(block) for block in list(model)[:50])
    bitmap.clear_all()
    assert not len(bitmap)
    assert bitmap.next_run(0, 1) is None


def test_all_set_is_the_whole_volume_and_nothing_beyond() -> None:
    bitmap = DirtyBitmap(BLOCKS)
    bitmap.set_all()
    assert len(bitmap) == BLOCKS
    bitmap.merge_page(bitmap.page_count - 1, (1 << PAGE_BITS) - 1)
    assert len(bitmap) == BLOCKS
    with pytest.raises(AssertionError):
        bitmap.set(BLOCKS, 1)


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 24))
def test_every_touched_block_is_in_the_range(offset_bytes: int, length_bytes: int) -> None:
    first, count = block_range(offset_bytes, length_bytes)
    assert first * 4096 <= offset_bytes
    assert (first + count) * 4096 >= offset_bytes + length_bytes
    assert (count - 2) * 4096 < length_bytes


bits = st.integers(0, 1 << 64).map(lambda value: value | value << 20_000)


@given(st.integers(0, 5), bits)
def test_a_page_comes_back(page: int, value: int) -> None:
    raw = memoryview(encode_page(page, value, PAIR))
    assert len(raw) == SLOT_BYTES
    assert decode_page(raw, page, PAIR) == value
    assert decode_page(raw, page + 1, PAIR) is None
    assert decode_page(raw, page, bytes(16)) is None


@given(bits, st.integers(0, SLOT_BYTES - 1), st.integers(1, 255))
def test_a_damaged_page_is_never_read_as_something_else(value: int, at: int, flip: int) -> None:
    raw = bytearray(encode_page(3, value, PAIR))
    raw[at] ^= flip
    # Bytes between the header's fields and the bits carry nothing.
    assert decode_page(memoryview(raw), 3, PAIR) in (None, value)


@given(bits, bits, st.integers(1, 7))
def test_a_torn_page_is_all_dirty_or_whole(old: int, new: int, sectors: int) -> None:
    before, after = encode_page(0, old, PAIR), encode_page(0, new, PAIR)
    torn = after[: sectors * 512] + before[sectors * 512 :]
    assert decode_page(memoryview(torn), 0, PAIR) in {None, new, *([old] if torn == before else [])}


def test_half_a_first_write_is_not_clean() -> None:
    page = encode_page(0, 1 << 32_000, PAIR)
    for sectors in range(1, 8):
        for torn in (
            page[: sectors * 512].ljust(SLOT_BYTES, b"\0"),
            page[sectors * 512 :].rjust(SLOT_BYTES, b"\0"),
        ):
            assert decode_page(memoryview(torn), 0, PAIR) is None


async def test_a_page_that_is_gone_is_all_dirty() -> None:
    bitmap = DirtyBitmap(BLOCKS)
    store = MemoryStore(file_bytes(BLOCKS))
    await BitmapFile(store, bitmap, PAIR).create()
    damaged = list[int]()
    await BitmapFile(store, bitmap, PAIR).load(damaged.append)
    assert damaged == []
    assert not len(bitmap)
    store.raw[2 * SLOT_BYTES : 3 * SLOT_BYTES] = bytes(SLOT_BYTES)
    await BitmapFile(store, bitmap, PAIR).load(damaged.append)
    assert damaged == [1]
    assert list(bitmap.runs()) == [(PAGE_BITS, min(PAGE_BITS, BLOCKS - PAGE_BITS))]
    await BitmapFile(store, bitmap, PAIR).create()
    again = DirtyBitmap(BLOCKS)
    await BitmapFile(store, again, PAIR).load(damaged.append)
    assert damaged == [1], "laid out anew it is whole"
    assert list(again.runs()) == list(bitmap.runs())


async def test_foreign_and_damaged_headers_are_refused() -> None:
    store = MemoryStore(file_bytes(BLOCKS))
    right = encode_header(BLOCKS, PAIR)
    other_size = encode_header(BLOCKS + 1, PAIR)
    damaged = bytes([right[0] ^ 1]) + right[1:]
    for header in (b"", other_size, encode_header(BLOCKS, bytes(16)), damaged):
        store.raw[:SLOT_BYTES] = header.ljust(SLOT_BYTES, b"\0")
        with pytest.raises(CorruptError):
            await BitmapFile(store, DirtyBitmap(BLOCKS), PAIR).load(lambda page: None)
    store.raw[:SLOT_BYTES] = right
    bitmap = DirtyBitmap(BLOCKS)
    await BitmapFile(store, bitmap, PAIR).load(lambda page: None)
    assert len(bitmap) == BLOCKS, "a header alone vouches for no page"


def test_a_volume_of_64_tib_costs_nothing_while_clean() -> None:
    bitmap = DirtyBitmap((64 << 40) // 4096)
    bitmap.set(bitmap.blocks - 1, 1)
    assert bitmap.next_run(0, 9) == (bitmap.blocks - 1, 1)
    assert len(bitmap.used_pages()) == 1


async def test_saves_are_serial_and_the_next_takes_what_came_meanwhile() -> None:
    inner = MemoryStore(file_bytes(BLOCKS))
    store = FaultyStore(inner)
    bitmap = DirtyBitmap(BLOCKS)
    file = BitmapFile(store, bitmap, PAIR)
    await file.create()
    store.rules = [FaultRule("flush", "hold")]
    ended: list[object] = []
    bitmap.set(0, 1)
    file.save(ended.append)
    bitmap.set(PAGE_BITS, 1)
    file.save(ended.append)
    assert ended == []
    store.release()
    assert ended == [None, None]
    loaded = DirtyBitmap(BLOCKS)
    await BitmapFile(inner, loaded, PAIR).load(lambda page: None)
    assert list(loaded.runs()) == [(0, 1), (PAGE_BITS, 1)]


async def test_a_file_keeps_what_was_saved_and_takes_damage_as_dirty() -> None:
    chance = random.Random(5)
    bitmap = DirtyBitmap(BLOCKS)
    store = MemoryStore(file_bytes(BLOCKS))
    file = BitmapFile(store, bitmap, PAIR)
    await file.create()
    for _ in range(50):
        bitmap.set(chance.randrange(BLOCKS - 10), 10)
    errors: list[object] = []
    file.save(errors.append)
    assert errors == [None]
    loaded, damaged = DirtyBitmap(BLOCKS), list[int]()
    await BitmapFile(store, loaded, PAIR).load(damaged.append)
    assert (list(loaded.runs()), damaged) == (list(bitmap.runs()), [])
    store.raw[SLOT_BYTES * 2 + 500] ^= 1
    loaded = DirtyBitmap(BLOCKS)
    await BitmapFile(store, loaded, PAIR).load(damaged.append)
    assert damaged == [1]
    assert loaded.count_in(PAGE_BITS, PAGE_BITS) == PAGE_BITS
    with pytest.raises(CorruptError):
        await BitmapFile(store, DirtyBitmap(BLOCKS), bytes(16)).load(damaged.append)
    assert len(encode_header(BLOCKS, PAIR)) == SLOT_BYTES


async def test_a_failed_save_is_never_taken_back() -> None:
    bitmap = DirtyBitmap(BLOCKS)
    store = MemoryStore(file_bytes(BLOCKS))
    file = BitmapFile(store, bitmap, PAIR)
    await file.create()
    bitmap.set(1, 1)
    store.tear_after_bytes = 100
    errors: list[object] = []
    file.save(errors.append)
    store.tear_after_bytes = None
    file.save(errors.append)
    assert all(error is not None for error in errors)
    assert len(errors) == 2


@given(st.lists(ranges, max_size=6), ranges)
def test_clear_runs_are_the_rest_of_a_range(
    marked: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    bitmap = DirtyBitmap(BLOCKS)
    for first, count in marked:
        bitmap.set(first, min(count, BLOCKS - first))
    first, count = asked[0], min(asked[1], BLOCKS - asked[0])
    found = list(bitmap.clear_runs(first, count))
    assert found == sorted(found)
    blocks = [block for at, length in found for block in range(at, at + length)]
    assert blocks == [at for at in range(first, first + count) if not bitmap.test(at)]


def test_dirty_bytes_are_those_of_the_marked_blocks() -> None:
    bitmap = DirtyBitmap(BLOCKS)
    bitmap.set(PAGE_BITS - 1, 3)
    assert bitmap.dirty_bytes == 3 * BLOCK_BYTES
