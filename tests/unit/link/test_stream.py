"""Two streams back to back: numbering, acknowledgement, tickets, and dead epochs (law L9)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.link.channel import Applied, Channel, Compared, Control
from controller.link.frames import (
    HEADER_BYTES,
    MAX_DISCARD_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RANGES,
    NODE,
    FrameError,
    Kind,
    encode_header,
    parse,
)
from controller.link.pair_channel import StreamChannel
from controller.link.stream import Stream, parse_json

PAIR = bytes(range(16))
OTHER = bytes(range(1, 17))


class Ticket:
    """Counts what it is told."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.told: list[str] = []
        self.then = then

    def acked(self) -> None:
        self.told.append("acked")

    def lost(self) -> None:
        self.told.append("lost")
        self.then()


@dataclass
class Side:
    """A pair's side that notes what arrives, and applies it when the test says so."""

    at_once: bool = True
    seen: list[tuple[Any, ...]] = field(default_factory=list)
    pending: list[Applied] = field(default_factory=list)
    comparisons: list[Compared] = field(default_factory=list)
    wire_bytes: int = 0

    def _took(self, applied: Applied) -> None:
        if self.at_once:
            applied("")
        else:
            self.pending.append(applied)

    def on_write(
        self, offset_bytes: int, data: memoryview, applied: Applied, *, copy: bool
    ) -> None:
        self.seen.append(("write", offset_bytes, bytes(data), copy))
        self._took(applied)

    def on_discard(
        self, offset_bytes: int, length_bytes: int, applied: Applied, *, copy: bool
    ) -> None:
        self.seen.append(("discard", offset_bytes, length_bytes, copy))
        self._took(applied)

    def on_flush(self, applied: Applied, *, copy: bool) -> None:
        self.seen.append(("flush", copy))
        self._took(applied)

    def on_control(self, message: Control) -> None:
        self.seen.append(("control", message))

    def on_bitmap(self, payload: bytes | memoryview, *, doubt: bool) -> None:
        self.seen.append(("bitmap", bytes(payload), doubt))

    def on_intent(self, ranges: list[tuple[int, int]]) -> None:
        self.seen.append(("intent", ranges))

    def on_compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, answer: Compared, *, copy: bool
    ) -> None:
        self.seen.append(("compare", offset_bytes, length_bytes, digests, copy))
        self.comparisons.append(answer)

    def on_open(self, channel: Channel) -> None:
        del channel

    def on_lost(self, reason: str) -> None:
        del reason

    def count_wire(self, wire_bytes: int) -> None:
        self.wire_bytes += wire_bytes


class End:
    """One end: a stream, and the bytes it has sent that have not arrived."""

    def __init__(self, side: Side | None = None) -> None:
        self.side = side or Side()
        self.wire = bytearray()
        self.node_messages: list[Control] = []
        self.sides = {PAIR: self.side}
        self.stream = Stream(self._send, self.sides.get, self.node_messages.append)
        self.channel = StreamChannel(self.stream, PAIR, self.side)

    def _send(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        self.wire += header
        self.wire += payload

    def deliver(self, to: End, frames: int = 1 << 30) -> None:
        """Let frames arrive at the other end, as one batch."""
        while frames and (parsed := parse(memoryview(bytes(self.wire)))) is not None:
            frame, size = parsed
            del self.wire[:size]
            to.stream.receive(frame)
            frames -= 1
        to.stream.send_acks()


def both(a: End, b: End) -> None:
    while a.wire or b.wire:
        a.deliver(b)
        b.deliver(a)


def test_what_will_be_written_is_told_in_one_frame_however_much_it_is() -> None:
    a, b = End(), End()
    ranges = [(number << 20, 1 << 18) for number in range(MAX_RANGES + 5)]
    a.channel.intent(ranges)
    sent_bytes = len(a.wire)
    both(a, b)
    assert b.side.seen == [("intent", ranges[:MAX_RANGES])]
    assert a.side.wire_bytes == b.side.wire_bytes == sent_bytes
    a.stream.close()
    a.channel.intent(ranges)
    assert not a.wire


def test_frames_arrive_in_order_and_every_ticket_ends_once() -> None:
    a, b = End(), End()
    tickets = [Ticket() for _ in range(4)]
    a.channel.write(4096, memoryview(b"data"), tickets[0], copy=False)
    a.channel.control({"kind": "marker"})
    a.channel.discard(0, 8192, tickets[1], copy=True)
    a.channel.bitmap(b"pages")
    a.channel.write(0, memoryview(b"copied"), tickets[2], copy=True)
    a.channel.flush(tickets[3], copy=True)
    assert a.channel.backlog_bytes == len(b'data{"kind":"marker"}pagescopied')
    a.stream.send_control(NODE, {"call": 1})
    sent_bytes = len(a.wire) - len(b'{"call":1}') - HEADER_BYTES
    both(a, b)
    assert b.side.seen == [
        ("write", 4096, b"data", False),
        ("control", {"kind": "marker"}),
        ("discard", 0, 8192, True),
        ("bitmap", b"pages", False),
        ("write", 0, b"copied", True),
        ("flush", True),
    ]
    assert b.node_messages == [{"call": 1}]
    assert [ticket.told for ticket in tickets] == [["acked"]] * 4
    assert a.channel.backlog_bytes == 0
    assert a.side.wire_bytes == b.side.wire_bytes == sent_bytes


def test_an_acknowledgement_covers_only_what_has_been_applied_in_order() -> None:
    a, b = End(), End(Side(at_once=False))
    tickets = [Ticket() for _ in range(3)]
    for number, ticket in enumerate(tickets):
        a.channel.write(number, memoryview(b"x"), ticket, copy=False)
    both(a, b)
    b.side.pending[2]("")
    b.side.pending[1]("")
    both(a, b)
    assert [ticket.told for ticket in tickets] == [[], [], []]
    b.side.pending[0]("")
    assert b.wire, "what is applied outside of a batch is told at once"
    both(a, b)
    assert [ticket.told for ticket in tickets] == [["acked"]] * 3


def test_a_long_batch_is_acknowledged_on_the_way() -> None:
    a, b = End(), End()
    for _ in range(200):
        a.channel.write(0, memoryview(b"x"), Ticket(), copy=False)
    while (parsed := parse(memoryview(bytes(a.wire)))) is not None:
        del a.wire[: parsed[1]]
        b.stream.receive(parsed[0])
    assert len(b.wire) == 3 * HEADER_BYTES
    b.deliver(a)
    assert a.stream.backlog_bytes == 200 - 3 * 64


@pytest.mark.parametrize(("failure", "told"), [("", "acked"), ("no disk", "lost")])
def test_a_flush_is_answered_on_its_own(failure: str, told: str) -> None:
    a, b = End(), End(Side(at_once=False))
    flush, write = Ticket(), Ticket()
    a.channel.flush(flush, copy=False)
    a.channel.write(0, memoryview(b"x"), write, copy=False)
    both(a, b)
    answer_flush, answer_write = b.side.pending
    answer_write("")
    both(a, b)
    assert (flush.told, write.told) == ([], ["acked"])
    answer_flush(failure)
    both(a, b)
    assert flush.told == [told]


def test_what_is_too_long_for_a_frame_is_split_and_ends_with_its_last_piece() -> None:
    a, b = End(), End(Side(at_once=False))
    write, discard = Ticket(), Ticket()
    data = bytes(range(256)) * (MAX_PAYLOAD_BYTES // 256) * 2 + b"tail"
    a.channel.write(0, memoryview(data), write, copy=False)
    a.channel.discard(0, MAX_DISCARD_BYTES + 4096, discard, copy=False)
    both(a, b)
    assert b"".join(seen[2] for seen in b.side.seen[:3]) == data
    assert [seen[1] for seen in b.side.seen] == [
        0, MAX_PAYLOAD_BYTES, 2 * MAX_PAYLOAD_BYTES, 0, MAX_DISCARD_BYTES,
    ]  # fmt: skip
    for applied in b.side.pending[:-1]:
        assert discard.told == []
        applied("")
        both(a, b)
    assert write.told == ["acked"]
    b.side.pending[-1]("")
    both(a, b)
    assert discard.told == ["acked"]


def test_a_pair_that_is_not_here_is_named_once_and_its_data_means_nothing() -> None:
    a, b = End(), End()
    b.sides.clear()
    write, flush = Ticket(), Ticket()
    a.channel.write(0, memoryview(b"x"), write, copy=False)
    a.channel.discard(0, 4096, Ticket(), copy=False)
    a.channel.bitmap(b"x")
    a.channel.flush(flush, copy=False)
    a.channel.control({"kind": "report"})
    both(a, b)
    assert (write.told, flush.told) == (["acked"], ["lost"])
    assert a.side.seen == [("control", {"kind": "unknown_pair"})]


def test_a_refused_pair_loses_its_tickets_and_no_others() -> None:
    a, b = End(), End()
    mine, flush, others = Ticket(), Ticket(), Ticket()
    a.channel.write(0, memoryview(b"x"), mine, copy=False)
    a.channel.flush(flush, copy=False)
    StreamChannel(a.stream, OTHER, Side()).write(0, memoryview(b"y"), others, copy=False)
    a.channel.forget()
    both(a, b)
    assert (mine.told, flush.told, others.told) == (["lost"], ["lost"], ["acked"])


class Inquiry:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[int | str | None] = []

    def compared(self, differing: int | None) -> None:
        self.told.append(differing)

    def lost(self) -> None:
        self.told.append("lost")


def test_a_comparison_is_asked_in_order_and_answered_on_its_own() -> None:
    a, b = End(), End(Side(at_once=False))
    write, detail, hole, untold = Ticket(), Inquiry(), Inquiry(), Inquiry()
    digests = bytes(range(48))
    a.channel.write(0, memoryview(b"x"), write, copy=False)
    a.channel.compare(4096, 3 * 4096, digests, detail, copy=True)
    a.channel.compare(0, MAX_DISCARD_BYTES, b"", hole, copy=False)
    a.channel.compare(8192, 4096, digests[:16], untold, copy=False)
    a.channel.bitmap(b"pages", doubt=True)
    both(a, b)
    assert b.side.seen == [
        ("write", 0, b"x", False),
        ("compare", 4096, 3 * 4096, digests, True),
        ("compare", 0, MAX_DISCARD_BYTES, b"", False),
        ("compare", 8192, 4096, digests[:16], False),
        ("bitmap", b"pages", True),
    ]
    assert write.told == []
    b.side.comparisons[2](None)
    b.side.comparisons[1](0)
    b.side.comparisons[0](0b101)
    both(a, b)
    assert (detail.told, hole.told, untold.told) == ([0b101], [0], [None])
    b.side.pending[0]("")
    both(a, b)
    assert write.told == ["acked"]


def test_a_comparison_ends_with_its_stream_its_pair_and_its_receiver() -> None:
    a, b = End(), End()
    on_the_way, forgotten, late = Inquiry(), Inquiry(), Inquiry()
    a.channel.compare(0, 4096, bytes(16), forgotten, copy=False)
    StreamChannel(a.stream, OTHER, Side()).compare(0, 4096, bytes(16), on_the_way, copy=False)
    a.channel.forget()
    assert (forgotten.told, on_the_way.told) == (["lost"], [])
    both(a, b)
    assert on_the_way.told == [None], "nobody there: no telling"
    a.channel.compare(0, 4096, bytes(16), late, copy=False)
    a.deliver(b)
    a.stream.close()
    b.stream.close()
    b.side.comparisons[-1](0)
    assert late.told == ["lost"]
    assert not b.wire
    a.channel.compare(0, 4096, bytes(16), late, copy=False)
    assert late.told == ["lost", "lost"]


@pytest.mark.parametrize("bits", [b"\x02", b"\x00\x01"])
def test_an_answer_for_blocks_nobody_asked_about_ends_the_connection(bits: bytes) -> None:
    a = End()
    a.channel.compare(0, 4096, bytes(16), Inquiry(), copy=False)
    raw = encode_header(Kind.COMPARED, sequence=1, payload=bits) + bits
    parsed = parse(memoryview(raw))
    assert parsed is not None
    with pytest.raises(FrameError, match="too many blocks"):
        a.stream.receive(parsed[0])
    with pytest.raises(FrameError, match="never sent"):
        a.stream.receive(parsed[0])


# ---------------------------------------------------------------- epochs


def test_nothing_of_a_closed_stream_has_an_effect() -> None:
    a, b = End(), End(Side(at_once=False))
    before, after, flush = Ticket(), Ticket(), Ticket()
    a.channel.write(0, memoryview(b"before"), before, copy=False)
    a.channel.flush(flush, copy=False)
    a.deliver(b)
    late = [encode_header(Kind.ACK, sequence=1), encode_header(Kind.FLUSHED, sequence=2)]
    a.channel.write(0, memoryview(b"on the way"), Ticket(), copy=False)
    a.stream.close()
    b.stream.close()
    assert not a.channel.alive
    assert (before.told, flush.told) == (["lost"], ["lost"])
    for raw in late:
        parsed = parse(memoryview(raw))
        assert parsed is not None
        a.stream.receive(parsed[0])
    seen = list(b.side.seen)
    a.deliver(b)
    for applied in b.side.pending:
        applied("")
    b.stream.send_acks()
    assert b.side.seen == seen
    assert not b.wire, "what a dead epoch applied late is told to nobody"
    a.channel.write(0, memoryview(b"x"), after, copy=False)
    a.channel.discard(0, 4096, after, copy=False)
    a.channel.flush(after, copy=False)
    a.channel.control({"kind": "report"})
    a.channel.bitmap(b"x")
    assert after.told == ["lost"] * 3
    assert not a.wire
    a.stream.close()
    assert (before.told, flush.told) == (["lost"], ["lost"])
    assert a.stream.backlog_bytes == 0


def test_a_ticket_that_is_lost_may_write_again_at_once() -> None:
    a = End()
    second = Ticket()
    first = Ticket(lambda: a.channel.write(1, memoryview(b"again"), second, copy=False))
    third = Ticket()
    a.channel.write(0, memoryview(b"x"), first, copy=False)
    a.channel.write(0, memoryview(b"y"), third, copy=False)
    a.stream.close()
    assert (first.told, second.told, third.told) == (["lost"], ["lost"], ["lost"])


@given(st.integers(0, 1 << 32))
def test_any_cut_ends_every_ticket_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    a, b = End(), End(Side(at_once=False))
    tickets: list[Ticket] = []
    applied = 0
    for number in range(chance.randrange(40)):
        action = chance.randrange(6)
        ticket = Ticket()
        if action == 0:
            a.channel.flush(ticket, copy=False)
            tickets.append(ticket)
        elif action <= 2:
            a.channel.write(number, memoryview(b"z" * 9), ticket, copy=False)
            tickets.append(ticket)
        elif action == 3:
            a.deliver(b, chance.randrange(3))
        elif action == 4:
            b.deliver(a, chance.randrange(3))
        elif b.side.pending:
            b.side.pending.pop(chance.randrange(len(b.side.pending)))("")
            applied += 1
    a.stream.close()
    assert all(len(ticket.told) == 1 for ticket in tickets)
    assert sum(ticket.told == ["acked"] for ticket in tickets) <= applied
    b.deliver(a)
    assert all(len(ticket.told) == 1 for ticket in tickets)


# ---------------------------------------------------------------- a peer that breaks the rules


def control(sequence: int, payload: bytes = b"{}") -> bytes:
    return encode_header(Kind.CONTROL, sequence=sequence, payload=payload) + payload


@pytest.mark.parametrize(
    "raw",
    [
        control(2),
        control(0),
        control(1) + control(1),
        control(1, b"no json"),
        control(1, b"\xff\xfe"),
        control(1, b"[1]"),
        encode_header(Kind.ACK, sequence=1),
        encode_header(Kind.FLUSHED, sequence=1),
        encode_header(Kind.HELLO, payload=b"{}") + b"{}",
    ],
    ids=[
        "gap", "zero", "twice", "not JSON", "not text", "not an object",
        "ack of nothing", "flushed nothing", "hello again",
    ],
)  # fmt: skip
def test_broken_rules_end_the_connection(raw: bytes) -> None:
    a, b = End(), End()
    a.wire += raw
    with pytest.raises(FrameError):
        a.deliver(b)


def test_deep_json_ends_the_connection_too() -> None:
    with pytest.raises(FrameError):
        parse_json(b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}")


def test_pings_are_the_transports_affair() -> None:
    a, b = End(), End()
    a.wire += encode_header(Kind.PING) + encode_header(Kind.PONG)
    a.deliver(b)
    assert b.side.seen == []
