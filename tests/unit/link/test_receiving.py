"""From bytes to frames: nothing is lost where a frame and a turn, or the buffer, end elsewhere."""

from __future__ import annotations

from random import Random
from typing import cast

import pytest

from controller.link.frames import MAX_PAYLOAD_BYTES, Frame, Kind, encode_header
from controller.link.stream import Stream
from controller.link.transport import TURN_BYTES, Connection, Links
from tests.wire import End

PAIR = b"p" * 16


class Collected:
    """A stream that keeps what it is given."""

    owes_ack = False

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def receive(self, frame: Frame) -> None:
        self.payloads.append(bytes(frame.payload))


@pytest.mark.parametrize("seed", range(4))
async def test_frames_of_all_sizes_in_pieces_of_all_sizes(seed: int) -> None:
    rng = Random(seed)
    connection = Connection(cast("Links", None))
    connection._transport = End()
    collected = Collected()
    connection.stream = cast("Stream", collected)
    sizes = [1, 100, 4096, 256 << 10, MAX_PAYLOAD_BYTES - 1, MAX_PAYLOAD_BYTES]
    payloads = [rng.randbytes(rng.choice(sizes)) for _ in range(40)]
    coming = memoryview(
        b"".join(
            encode_header(Kind.WRITE, PAIR, length_bytes=len(payload), payload=payload) + payload
            for payload in payloads
        )
    )
    while coming:
        room = connection.get_buffer(-1)
        assert len(room) == TURN_BYTES
        size = min(len(coming), rng.choice((len(room), rng.randint(1, len(room)))))
        room[:size] = coming[:size]
        coming = coming[size:]
        connection.buffer_updated(size)
        assert not connection.reason
    assert collected.payloads == payloads
