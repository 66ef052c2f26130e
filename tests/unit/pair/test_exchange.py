"""Bitmaps on the wire: they come back, and garbage is refused."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.pair.exchange import MAX_PAYLOAD_BYTES, ExchangeError, encode, merge
from controller.volume.bitmap import PAGE_BITS, PAGE_BYTES, DirtyBitmap

BLOCKS = PAGE_BITS + 99


@given(st.lists(st.tuples(st.integers(0, BLOCKS - 60), st.integers(1, 60)), max_size=20))
def test_a_bitmap_comes_back(runs: list[tuple[int, int]]) -> None:
    bitmap, other = DirtyBitmap(BLOCKS), DirtyBitmap(BLOCKS)
    for first, count in runs:
        bitmap.set(first, count)
    for payload in encode(bitmap):
        assert len(payload) <= MAX_PAYLOAD_BYTES
        merge(other, payload)
    assert list(other.runs()) == list(bitmap.runs())


@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(ExchangeError):
        merge(DirtyBitmap(BLOCKS), raw)


def entry(page: int, data: bytes) -> bytes:
    return struct.pack("<IH", page, len(data)) + data


GOOD = zlib.compress(bytes(PAGE_BYTES), 1)


@pytest.mark.parametrize(
    "payload",
    [
        entry(2, GOOD),
        entry(0, GOOD)[:-1],
        entry(0, GOOD) + b"\0\0\0",
        entry(0, zlib.compress(bytes(PAGE_BYTES - 1))),
        entry(0, zlib.compress(bytes(PAGE_BYTES + 1))),
        entry(0, zlib.compress(bytes(30 << 20))),
        entry(0, GOOD[:-3]),
        entry(0, b"not zlib"),
        entry(0, bytes(PAGE_BYTES + 65)),
    ],
    ids=["page", "cut", "cut head", "short", "long", "bomb", "no end", "not zlib", "too long"],
)
def test_every_limit_is_kept(payload: bytes) -> None:
    merge(DirtyBitmap(BLOCKS), entry(1, GOOD))
    with pytest.raises(ExchangeError):
        merge(DirtyBitmap(BLOCKS), payload)


def test_a_large_bitmap_takes_several_payloads_and_a_clean_one_none() -> None:
    chance = random.Random(1)
    bitmap, other = DirtyBitmap(60 * PAGE_BITS), DirtyBitmap(60 * PAGE_BITS)
    assert list(encode(bitmap)) == []
    for page in range(60):
        bitmap.merge_page(page, chance.getrandbits(PAGE_BITS))
    other.set(5, 1)
    payloads = list(encode(bitmap))
    assert len(payloads) > 1
    for payload in reversed(payloads):
        assert len(payload) <= MAX_PAYLOAD_BYTES
        merge(other, memoryview(payload))
    bitmap.set(5, 1)
    assert [other.page(page) == bitmap.page(page) for page in range(60)] == [True] * 60
