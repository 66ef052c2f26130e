"""The slot ring and the intent record: torn, foreign and damaged bytes are never in force."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.volume.intent import IntentRecord
from controller.volume.slots import CorruptError, SlotLayout, SlotRing, decode_slot, encode_slot
from tests.unit.volume.memory import MemoryStore

LAYOUT = SlotLayout(b"testring", slot_bytes=2048, slots=3)


@given(st.integers(1, 1 << 60), st.binary(max_size=LAYOUT.max_payload_bytes))
def test_a_slot_comes_back(sequence: int, payload: bytes) -> None:
    raw = encode_slot(LAYOUT, sequence, payload)
    assert len(raw) % 512 == 0
    assert decode_slot(LAYOUT, raw) == (sequence, payload)
    assert decode_slot(SlotLayout(b"foreign!", 2048, 3), raw) is None


@given(st.binary(max_size=900), st.data())
def test_a_damaged_slot_is_none(payload: bytes, data: st.DataObject) -> None:
    raw = bytearray(encode_slot(LAYOUT, 7, payload))
    raw[data.draw(st.integers(0, 27 + len(payload)))] ^= data.draw(st.integers(1, 255))
    assert decode_slot(LAYOUT, bytes(raw)) is None


@given(st.binary(max_size=2048).map(lambda raw: raw.ljust(2048, b"\0")))
def test_garbage_is_none(raw: bytes) -> None:
    assert decode_slot(LAYOUT, raw) is None


def commit(ring: SlotRing, payload: bytes) -> object:
    outcome: list[object] = []
    ring.commit(payload, outcome.append)
    (error,) = outcome
    return error


@given(st.lists(st.binary(max_size=1500), min_size=1, max_size=8), st.integers(0, 2047))
async def test_a_torn_commit_leaves_the_one_before_it(payloads: list[bytes], torn: int) -> None:
    store = MemoryStore(LAYOUT.ring_bytes)
    ring = SlotRing(store, LAYOUT)
    assert await ring.load() is None
    for payload in payloads[:-1]:
        assert commit(ring, payload) is None
    store.tear_after_bytes = torn
    assert commit(ring, payloads[-1]) is not None
    store.tear_after_bytes = None
    assert commit(ring, b"never") is not None, "a ring that failed takes no more"
    allowed = [*payloads[-2:]]
    try:
        found = await SlotRing(store, LAYOUT).load()
    except CorruptError:
        assert len(payloads) == 1
        return
    assert found in allowed or (found is None and len(payloads) == 1)


async def test_what_is_neither_empty_nor_ours_is_refused() -> None:
    with pytest.raises(CorruptError):
        await SlotRing(MemoryStore(LAYOUT.ring_bytes, b"something else"), LAYOUT).load()


@given(
    st.integers(1, 1 << 31),
    st.booleans(),
    st.lists(st.integers(0, (1 << 32) - 1), max_size=99, unique=True),
)
def test_an_intent_record_comes_back(extent_bytes: int, clean: bool, extents: list[int]) -> None:
    record = IntentRecord(extent_bytes, clean and not extents, tuple(extents))
    raw = record.encode()
    assert IntentRecord.decode(raw) == record
    for wrong in (raw[:-1], raw + b"\0", raw[:5], b""):
        with pytest.raises(CorruptError):
            IntentRecord.decode(wrong)


@pytest.mark.parametrize("wrong", [(2, 0), (255, 0), (1, 1)])
def test_a_record_that_contradicts_itself_is_not_clean(wrong: tuple[int, int]) -> None:
    clean, count = wrong
    raw = bytearray(IntentRecord(65536, False, (5,) * count).encode())
    raw[4] = clean
    with pytest.raises(CorruptError):
        IntentRecord.decode(bytes(raw))


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=9), st.integers(0, 15))
async def test_sectors_of_a_commit_that_are_lost_one_by_one(
    payloads: list[bytes], kept: int
) -> None:
    """A disk may store any of a slot's sectors, and no others, when the power goes."""
    store = MemoryStore(LAYOUT.ring_bytes)
    ring = SlotRing(store, LAYOUT)
    before = bytes(store.raw)
    for payload in payloads:
        before = bytes(store.raw)
        assert commit(ring, payload) is None
    for sector in range(LAYOUT.ring_bytes // 512):
        if not kept >> sector % 4 & 1:
            at = sector * 512
            store.raw[at : at + 512] = before[at : at + 512]
    again = SlotRing(store, LAYOUT)
    try:
        found = await again.load()
    except CorruptError:
        assert len(payloads) == 1
        return
    assert found in payloads[-2:] or (found is None and len(payloads) == 1)
    assert commit(again, b"goes on") is None
    assert await SlotRing(store, LAYOUT).load() == b"goes on"


def test_a_record_that_names_an_extent_twice_is_refused() -> None:
    with pytest.raises(CorruptError):
        IntentRecord.decode(IntentRecord(65536, False, (4, 9, 4)).encode())


@given(st.integers(0, 2), st.integers(0, 2047), st.integers(1, 255))
async def test_a_record_that_is_there_twice_outlives_any_damaged_byte(
    slot: int, at: int, flip: int
) -> None:
    twice = replace(LAYOUT, copies=2)
    store = MemoryStore(twice.ring_bytes)
    ring = SlotRing(store, twice)
    for number in range(5):
        assert commit(ring, b"%d" % number * 1000) is None
    for copy in (0, 3):
        spoilt = MemoryStore(twice.ring_bytes, bytes(store.raw))
        spoilt.raw[(slot + copy) * 2048 + at] ^= flip
        assert await SlotRing(spoilt, twice).load() == b"4" * 1000


def test_a_slot_of_a_ring_with_another_seed_is_none() -> None:
    raw = encode_slot(replace(LAYOUT, seed=1), 4, b"theirs")
    assert decode_slot(replace(LAYOUT, seed=2), raw) is None
    assert decode_slot(LAYOUT, raw) is None


@given(st.integers(1, 9), st.binary(min_size=2048, max_size=2048) | st.just(bytes(2048)))
async def test_a_newest_record_whose_both_copies_are_lost_does_not_bring_back_an_older(
    commits: int, noise: bytes
) -> None:
    twice = replace(LAYOUT, copies=2)
    store = MemoryStore(twice.ring_bytes)
    ring = SlotRing(store, twice)
    for number in range(commits):
        assert commit(ring, b"%d" % number) is None
    for copy in (0, 3):
        at = (commits % 3 + copy) * 2048
        store.raw[at : at + 2048] = noise
    first_lap_of_zeros = commits <= 3 and not any(noise)
    try:
        found = await SlotRing(store, twice).load()
    except CorruptError:
        return
    assert found is None or first_lap_of_zeros
