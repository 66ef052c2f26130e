"""Frames: they come back, and whatever breaks a limit or a checksum is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.link.frames import (
    HEADER_BYTES,
    MAX_COMPARE_BYTES,
    MAX_CONTROL_BYTES,
    MAX_DISCARD_BYTES,
    MAX_RANGES,
    RANGE,
    FrameError,
    Kind,
    encode_header,
    parse,
)

PAIR = bytes(range(16))


@given(st.binary(min_size=1, max_size=2000), st.integers(0, 1 << 60), st.integers(1, 1 << 60))
def test_a_write_comes_back_when_it_is_all_there(data: bytes, at: int, number: int) -> None:
    raw = encode_header(
        Kind.WRITE, PAIR, sequence=number, offset_bytes=at, length_bytes=len(data), payload=data
    )
    raw += data
    for cut in {0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(raw) - 1}:
        assert parse(memoryview(raw)[:cut]) is None
    parsed = parse(memoryview(raw + b"next"))
    assert parsed is not None
    frame, size = parsed
    assert size == len(raw)
    assert (frame.kind, frame.pair, frame.sequence) == (Kind.WRITE, PAIR, number)
    assert (frame.offset_bytes, bytes(frame.payload)) == (at, data)


@given(st.data())
def test_one_changed_byte_is_refused(data: st.DataObject) -> None:
    body = b"payload" * 9
    raw = bytearray(encode_header(Kind.WRITE, PAIR, length_bytes=len(body), payload=body) + body)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FrameError):
        parse(memoryview(raw))


@given(st.binary(min_size=HEADER_BYTES, max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(FrameError):
        parse(memoryview(raw))


@pytest.mark.parametrize(
    "raw",
    [
        encode_header(Kind.WRITE, PAIR, length_bytes=0),
        encode_header(Kind.WRITE, PAIR, length_bytes=3, payload=b"ab"),
        encode_header(Kind.DISCARD, PAIR, length_bytes=0),
        encode_header(Kind.DISCARD, PAIR, length_bytes=MAX_DISCARD_BYTES + 1),
        encode_header(Kind.DISCARD, PAIR, length_bytes=1, payload=b"a"),
        encode_header(Kind.DISCARD, PAIR, offset_bytes=1 << 63, length_bytes=1),
        encode_header(Kind.COMPARE, PAIR, length_bytes=0),
        encode_header(Kind.COMPARE, PAIR, length_bytes=4095),
        encode_header(Kind.COMPARE, PAIR, offset_bytes=512, length_bytes=4096),
        encode_header(Kind.COMPARE, PAIR, length_bytes=8192, payload=bytes(16)),
        encode_header(Kind.COMPARE, PAIR, length_bytes=MAX_DISCARD_BYTES + 4096),
        encode_header(
            Kind.COMPARE,
            PAIR,
            length_bytes=MAX_COMPARE_BYTES + 4096,
            payload=bytes(16 * (MAX_COMPARE_BYTES // 4096 + 1)),
        ),
        encode_header(Kind.INTENT, PAIR),
        encode_header(Kind.INTENT, PAIR, payload=bytes(RANGE.size + 1)),
        encode_header(Kind.INTENT, PAIR, payload=bytes(RANGE.size * (MAX_RANGES + 1))),
        encode_header(Kind.CONTROL, PAIR, payload=bytes(MAX_CONTROL_BYTES + 1)),
        encode_header(Kind.HELLO, payload=bytes(MAX_CONTROL_BYTES + 1)),
    ],
)
def test_every_limit_is_kept(raw: bytes) -> None:
    with pytest.raises(FrameError):
        parse(memoryview(raw))
