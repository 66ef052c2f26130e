"""Framing, the outbox, sequence numbers and the buffer pool: pure, so every cut is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.iscsi.buffers import LARGEST_BYTES, Buffer, BufferPool
from targets.iscsi.outbox import Outbox, build
from targets.iscsi.pdu import Header, Opcode, ProtocolError, serial_distance
from targets.iscsi.sequence import Sequence
from targets.iscsi.stream import PduStream

pytestmark = pytest.mark.plain


class Collector:
    """A sink that places large payloads when it is told to."""

    def __init__(self, placing: bool) -> None:
        self.placing = placing
        self.paused = False
        self.got: list[bytes] = []
        self.placed = 0

    def place(self, _header: Header, _raw: bytes, length_bytes: int) -> memoryview | None:
        if not self.placing:
            return None
        self.placed += 1
        return memoryview(bytearray(length_bytes))

    def handle(self, _header: Header, _raw: bytes, data: memoryview) -> None:
        self.got.append(bytes(data))


def wire(payloads: list[bytes], header_digest: bool, data_digest: bool) -> bytes:
    outbox = Outbox()
    outbox.header_digest, outbox.data_digest = header_digest, data_digest
    for payload in payloads:
        outbox.put(build(Opcode.DATA_OUT, 0x80, len(payload), 0, *range(8)), payload)
    said = b""
    while outbox.unsent_bytes:
        part = b"".join(outbox.vector())
        said += part
        outbox.sent(len(part))
    return said


def feed(stream: PduStream, data: bytes, cut: int) -> None:
    at = 0
    while at < len(data):
        left = data[at : at + cut]
        at += len(left)
        taken = 0
        while taken < len(left):
            for view in stream.room():
                count = min(len(view), len(left) - taken)
                view[:count] = left[taken : taken + count]
                taken += count
                stream.received(count)
                break


@given(
    sizes=st.lists(st.integers(0, 60000), min_size=1, max_size=4),
    cut=st.integers(1, 70000).map(lambda n: max(n, 97)),
    digests=st.tuples(st.booleans(), st.booleans()),
    placing=st.booleans(),
)
def test_any_cut_gives_the_same_pdus(
    sizes: list[int], cut: int, digests: tuple[bool, bool], placing: bool
) -> None:
    payloads = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    sink = Collector(placing)
    stream = PduStream(sink, 65536)
    stream.header_digest, stream.data_digest = digests
    feed(stream, wire(payloads, *digests), cut)
    assert sink.got == payloads


def test_large_payloads_are_placed_and_checked() -> None:
    data = bytearray(wire([b"x" * 60001, b"tail"], True, True))
    sink = Collector(placing=True)
    stream = PduStream(sink, 65536)
    stream.header_digest = stream.data_digest = True
    feed(stream, bytes(data), 5000)
    assert (sink.placed, [len(each) for each in sink.got]) == (1, [60001, 4])
    data[30000] ^= 1
    stream = PduStream(Collector(placing=True), 65536)
    stream.header_digest = stream.data_digest = True
    with pytest.raises(ProtocolError, match="data digest"):
        feed(stream, bytes(data), 5000)


def test_limits_and_pauses() -> None:
    stream = PduStream(Collector(placing=False), 512)
    with pytest.raises(ProtocolError, match="longer than declared"):
        feed(stream, wire([bytes(513)], False, False), 10000)
    sink = Collector(placing=False)
    sink.paused = True
    stream = PduStream(sink, 512)
    feed(stream, wire([b"a", b"b"], False, False), 1000)
    assert sink.got == []
    sink.paused = False
    stream.parse()
    assert sink.got == [b"a", b"b"]


@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(1, 4000))
def test_outbox_releases_what_has_left(sizes: list[int], step: int) -> None:
    outbox, released, ends = Outbox(), [], []
    for number, size in enumerate(sizes):
        outbox.put(build(Opcode.DATA_IN, 0, size, 0, *range(8)), bytes(size))
        outbox.when_sent(lambda number=number: released.append(number))  # type: ignore[misc]
        ends.append(outbox.queued)
    while outbox.unsent_bytes:
        outbox.sent(min(step, len(b"".join(outbox.vector()))))
        assert released == [n for n, end in enumerate(ends) if end <= outbox.sent_total]
    assert released == list(range(len(sizes)))


@given(st.integers(0, 0xFFFFFFFF), st.integers(-(2**31) + 1, 2**31 - 1))
def test_serial_numbers(start: int, step: int) -> None:
    assert serial_distance(start + step & 0xFFFFFFFF, start) == step


def test_sequence_wraps_and_bounds() -> None:
    sequence = Sequence(0xFFFFFFFE, 7, window=3, immediate=2)
    assert sequence.accept(0xFFFFFFFE)
    assert not sequence.accept(0xFFFFFFFE)
    assert sequence.accept(0xFFFFFFFF)
    with pytest.raises(ProtocolError, match="gap"):
        Sequence(0, 0, 4, 1).accept(2)
    assert sequence.accept(0)
    assert not sequence.accept(1), "the window is closed"
    sequence.answered(immediate=False)
    assert sequence.accept(1)
    assert [sequence.next_stat_sn(), sequence.stat_sn] == [7, 8]


def test_pool_bounds_waits_and_reuses() -> None:
    pool = BufferPool(LARGEST_BYTES)
    big = pool.take(LARGEST_BYTES)
    assert big is not None
    assert pool.take(1) is None
    got: list[Buffer] = []
    pool.wait(5000, got.append)
    pool.wait(1, got.append)
    pool.give(big)
    assert [len(each.view) for each in got] == [8192, 4096]
    assert pool.existing_bytes <= pool.limit_bytes
    for each in got:
        pool.give(each)
    assert pool.take(8192) is got[0]
    with pytest.raises(AssertionError):
        pool.give(got[1])
    with pytest.raises(ValueError):
        BufferPool(1)
