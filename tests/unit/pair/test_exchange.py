"""Bitmaps on the wire: they come back, and garbage is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.pair.exchange import MAX_PAYLOAD_BYTES, ExchangeError, encode, merge
from controller.volume.bitmap import PAGE_BITS, DirtyBitmap

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
