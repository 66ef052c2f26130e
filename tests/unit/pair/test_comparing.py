"""Comparisons: the digests, the target's half under writes, and the source's reader."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from controller.pair.comparing import Comparer, differing, digests_of
from controller.pair.reading import SourceReader
from controller.volume.store import StoreError, StoreFault
from tests.unit.pair.slow import BLOCK, QuietVolume


def comparer(data: bytearray) -> tuple[Comparer, QuietVolume]:
    volume = QuietVolume(data)
    return Comparer(volume), volume  # type: ignore[arg-type]


def test_a_digest_is_blake2b_of_a_block() -> None:
    data = bytes(range(256)) * 32
    expected = b"".join(
        blake2b(data[at : at + BLOCK], digest_size=16).digest() for at in (0, BLOCK)
    )
    assert digests_of(memoryview(data)) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_exactly_the_blocks_that_differ_are_named(blocks: list[int], draw: st.DataObject) -> None:
    others = [draw.draw(st.integers(0, 3)) for _ in blocks]
    mine, theirs = (b"".join(bytes([b]) * BLOCK for b in each) for each in (blocks, others))
    bits = differing(digests_of(memoryview(mine)), digests_of(memoryview(theirs)))
    assert [bool(bits >> n & 1) for n in range(len(blocks))] == [
        one != other for one, other in zip(blocks, others, strict=True)
    ]
    assert bits >> len(blocks) == 0


def test_a_comparison_waits_for_the_writes_before_it() -> None:
    data = bytearray(2 * BLOCK)
    compares, volume = comparer(data)
    volume.store.at_once = volume.busy = True
    told: list[int | None] = []
    wanted = digests_of(memoryview(b"n" * BLOCK + bytes(BLOCK)))
    compares.compare(0, 2 * BLOCK, wanted, told.append)
    assert told == []
    data[:BLOCK] = b"n" * BLOCK
    compares.overtake(0, BLOCK)
    (run,) = volume.waiting
    assert callable(run)
    run()
    assert told == [0], "read in one step, so whatever is queued behind it can't have reached it"


def test_where_a_write_may_have_overtaken_a_slow_read_there_is_no_telling() -> None:
    data = bytearray(4 * BLOCK)
    compares, volume = comparer(data)
    digests = digests_of(memoryview(bytes(2 * BLOCK)))
    told: list[int | None] = []
    for _ in range(2):
        compares.compare(BLOCK, 2 * BLOCK, digests, told.append)
    compares.overtake(0, BLOCK)
    compares.overtake(3 * BLOCK, BLOCK)
    volume.store.end_read()
    assert told == [0], "those writes don't touch it"
    compares.overtake(3 * BLOCK - 1, 1)
    volume.store.end_read()
    assert told == [0, None]


def test_a_block_that_cannot_be_read_differs() -> None:
    compares, volume = comparer(bytearray(2 * BLOCK))
    told: list[int | None] = []
    compares.compare(0, 2 * BLOCK, digests_of(memoryview(bytes(2 * BLOCK))), told.append)
    volume.store.end_read(StoreError(StoreFault.IO, "no disk"))
    assert told == [0b11]


def test_a_hole_is_compared_without_reading() -> None:
    data = bytearray(8 * BLOCK)
    data[5 * BLOCK] = 1
    compares, _ = comparer(data)
    told: list[int | None] = []
    compares.compare(0, 5 * BLOCK, b"", told.append)
    compares.compare(0, 8 * BLOCK, b"", told.append)
    compares.compare(6 * BLOCK, 2 * BLOCK, b"", told.append)
    assert told == [0, None, 0]


def test_a_reader_reads_again_what_a_write_overtook() -> None:
    data = bytearray(b"o" * 4 * BLOCK)
    volume = QuietVolume(data)
    store = volume.store
    reader = SourceReader(volume)  # type: ignore[arg-type]
    seen: list[bytes] = []
    errors: list[StoreError] = []
    reader.read(1, 2, lambda view: seen.append(bytes(view)), errors.append)
    assert reader.busy
    reader.overtake(0, BLOCK)
    reader.overtake(3 * BLOCK, BLOCK)
    store.end_read()
    assert seen == [b"o" * 2 * BLOCK]
    reader.read(1, 2, lambda view: seen.append(bytes(view)), errors.append)
    store.reads[0][1][:] = b"x" * 2 * BLOCK
    data[BLOCK : 2 * BLOCK] = b"n" * BLOCK
    reader.overtake(BLOCK, 1)
    store.end_read()
    assert len(seen) == 1
    store.end_read()
    assert seen[1] == b"n" * BLOCK + b"o" * BLOCK
    reader.read(0, 1, lambda view: seen.append(bytes(view)), errors.append)
    store.end_read(StoreError(StoreFault.IO, "no disk"))
    assert len(errors) == 1
    reader.read(0, 1, lambda view: seen.append(bytes(view)), errors.append)
    reader.stop()
    store.end_read()
    assert len(seen) == 2
