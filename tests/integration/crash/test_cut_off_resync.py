"""Both controllers die while a resync begins: what is left is named, with a next step.

Found by the kill rounds: the target had made itself ready, the source had not noted it.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from controller.api import messages as m
from controller.api.errors import RejectedError
from controller.link.transport import Peer
from tests.rig import Running, chain, eventually, linked, start_node, write

S = m.PairState
BLOCK = 4096


async def start(directory: Path, port: int = 0) -> tuple[Running, Running]:
    b = await start_node(directory / "b", "b", [Peer("a", "127.0.0.1", 1)], port=port, crashes=True)
    peers = [Peer("b", "127.0.0.1", b.node.link_port)]
    a = await start_node(directory / "a", "a", peers, crashes=True)
    await linked(a, b)
    return a, b


async def test_a_resync_that_died_before_it_began_has_a_next_step(tmp_path: Path) -> None:
    a, b = await start(tmp_path)
    await chain(a, b)
    await a.do("pair.split", m.PairSplit(name="remote"))
    await write(a.volume("first"), 0, b"1" * BLOCK)
    asked = m.PairResync(name="remote")
    copying = asyncio.create_task(a.do("pair.resync", asked))
    # Every turn of the loop counts: the next message would tell the source.
    while b.volume("second").state.consistent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert a.pair("remote").state is S.PSUS
    port = b.node.link_port
    await a.crash()
    await b.crash()
    with contextlib.suppress(RejectedError):
        await copying
    a, b = await start(tmp_path, port)
    try:
        await eventually(lambda: bool(a.pair("remote").next_step and b.pair("remote").next_step))
        assert a.pair("remote").state is S.PSUS
        assert b.pair("remote").state is S.PSUE
        for node in (a, b):
            assert "pair resync remote" in node.pair("remote").next_step
            assert "no point in time" in node.pair("remote").reason
        await a.do("pair.resync", asked)
        for node in (a, b):
            info = await node.until("remote", S.PAIR)
            assert not info.next_step
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")
    finally:
        await a.stop()
        await b.stop()


async def test_where_both_sides_were_written_it_says_so_and_may_be_asked_again(
    tmp_path: Path,
) -> None:
    a, b = await start(tmp_path)
    await chain(a, b)
    await a.do("pair.split", m.PairSplit(name="remote", writable=True))
    await b.until("remote", S.SSUS)
    await write(a.volume("first"), 0, b"1" * BLOCK)
    await write(b.volume("second"), BLOCK, b"2" * BLOCK)
    asked = m.PairResync(name="remote", direction=m.Direction.FORWARD)
    copying = asyncio.create_task(a.do("pair.resync", asked))
    while b.pair("remote").state is S.SSUS:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert a.pair("remote").state is S.PSUS
    port = b.node.link_port
    await a.crash()
    await b.crash()
    with contextlib.suppress(RejectedError):
        await copying
    a, b = await start(tmp_path, port)
    try:
        await eventually(lambda: "pair resolve" in a.pair("remote").next_step)
        await eventually(lambda: "pair resolve" in b.pair("remote").next_step)
        await a.do("pair.resync", asked)
        for node in (a, b):
            await node.until("remote", S.PAIR)
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")
    finally:
        await a.stop()
        await b.stop()
