"""What a broken link must not break: order, epochs, directions and what is marked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.link.transport import Peer
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.owner import PairOwner
from controller.pair.table import Command
from targets.lun import LunError, LunFault
from tests.rig import (
    chain,
    eventually,
    linked,
    read,
    relink,
    remote_pair,
    start_node,
    two_nodes,
    unlinked,
    write,
)

S = m.PairState
BLOCK = 4096


async def asked(owner: PairOwner) -> None:
    """Return in the loop's turn in which the other side is asked to prepare."""
    async with asyncio.timeout(10):
        while not owner.talk.awaits(msg.Prepared):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_cut_marks_what_was_written_and_the_mirror_resumes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await unlinked(a, b)
        assert (a.pair("remote").state, b.pair("remote").state) == (S.PSUE, S.PSUE)
        await write(a.volume("first"), 5 * BLOCK, b"w" * BLOCK)
        await write(a.volume("first"), 9 * BLOCK + 512, b"v" * 1024)
        assert a.pair("remote").dirty_bytes == 2 * BLOCK
        await relink(a, b)
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        assert a.pair("remote").resync_payload_bytes == 2 * BLOCK
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")


async def test_a_host_that_writes_on_from_its_answer_meets_no_dead_stream(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        first = a.volume("first")
        answers: list[LunError | None] = []

        def again(error: LunError | None) -> None:
            answers.append(error)
            if len(answers) == 1:
                first.write(BLOCK, memoryview(b"2" * BLOCK), False, again)

        await write(first, 0, b"0" * BLOCK)
        await write(first, BLOCK, b"0" * BLOCK)
        first.write(0, memoryview(b"1" * BLOCK), False, again)
        a.cut_link()
        await eventually(lambda: len(answers) == 2)
        assert answers == [None, None]
        await linked(a, b)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_a_write_while_the_resync_is_prepared_keeps_the_generations_together(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        first = a.volume("first")
        prepare = asyncio.create_task(a.do("pair.resync", m.PairResync(name="remote")))
        # The first write since the split falls between the question and its answer.
        owner = a.node.pairs.get("remote")
        await asked(owner)
        await write(first, 0, b"n" * BLOCK)
        await prepare
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        mine, theirs = owner.record, b.node.pairs.get("remote").record
        assert (mine.current, mine.baseline) == (theirs.current, theirs.baseline)
        await unlinked(a, b)
        await relink(a, b)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_a_clean_follower_is_guarded_when_a_write_falls_into_the_preparation(
    tmp_path: Path,
) -> None:
    """L7: what is copied out of order makes the second volume inconsistent for a while."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        prepare = asyncio.create_task(a.do("pair.resync", m.PairResync(name="remote")))
        owner = a.node.pairs.get("remote")
        await asked(owner)
        seen: list[bool] = []
        second = b.volume("second")
        inner = second.apply

        def apply(*args: object, **more: object) -> None:
            seen.append(second.state.consistent)
            inner(*args, **more)  # type: ignore[arg-type]

        second.apply = apply  # type: ignore[method-assign]
        await write(a.volume("first"), 0, b"n" * BLOCK)
        await prepare
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        if owner.side.payload_bytes:
            assert seen[0] is False


async def test_a_message_of_an_old_epoch_has_no_effect(tmp_path: Path) -> None:
    """L9: a Prepare that was still in the inbox when the link broke."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        owner = b.node.pairs.get("remote")
        prepare = msg.Prepare(dirty_bytes=BLOCK, current="f" * 32)
        owner.message(prepare)
        a.cut_link()
        for connection in list(b.node.links._live.values()):
            connection.abort("cut")
        await linked(a, b)
        await owner.caught_up()
        assert b.pair("remote").state is S.SSUS
        assert b.node.volumes.get("second").record.consistent


@pytest.mark.parametrize(
    ("fence", "fault"),
    [(m.Fence.NEVER, None), (m.Fence.STATUS, LunFault.FENCED), (m.Fence.DATA, LunFault.FENCED)],
)
async def test_fence_levels_with_the_link_down(
    tmp_path: Path, fence: m.Fence, fault: LunFault | None
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, fence=fence)
        first = a.volume("first")
        await write(first, 0, b"x" * BLOCK)
        await unlinked(a, b)
        if fault is None:
            await write(first, 0, b"y" * BLOCK)
        else:
            with pytest.raises(LunError) as refused:
                await write(first, 0, b"y" * BLOCK)
            assert refused.value.fault is fault
            assert await read(first, 0, BLOCK) == b"x" * BLOCK
            # The operator's word: go on without the mirror.
            await a.do("pair.split", m.PairSplit(name="remote"))
            await write(first, 0, b"z" * BLOCK)
        await relink(a, b)
        if fault is not None:
            await b.until("remote", S.SSUS)
            await a.do("pair.resync", m.PairResync(name="remote"))
        await a.until("remote", S.PAIR)
        await write(first, 0, b"!" * BLOCK)
        assert a.image("first") == b.image("second")


async def test_split_at_the_secondary_is_refused_while_the_primary_is_away(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await unlinked(a, b)
        with pytest.raises(RejectedError) as refused:
            await b.do("pair.split", m.PairSplit(name="remote", writable=True))
        assert refused.value.code is Code.WRONG_STATE
        assert refused.value.next_step
        assert b.pair("remote").state is S.PSUE
        await relink(a, b)
        await a.until("remote", S.PAIR)


async def test_both_sides_written_is_split_brain_until_one_is_named(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(a.volume("first"), 0, b"p" * BLOCK)
        await write(b.volume("second"), BLOCK, b"s" * BLOCK)
        owner = a.node.pairs.get("remote")
        with pytest.raises(RejectedError) as refused:
            await owner._leader.resync(Asked(Command.RESYNC), automatic=True)
        assert refused.value.code is Code.SPLIT_BRAIN
        assert "trilun pair resolve remote --discard NODE" in refused.value.next_step
        with pytest.raises(RejectedError) as refused:
            await b.do("pair.resync", m.PairResync(name="remote"))
        assert refused.value.code is Code.SPLIT_BRAIN
        for node in (a, b):
            await eventually(lambda node=node: node.pair("remote").split_brain)  # type: ignore[misc]
            shown = node.pair("remote")
            assert "split-brain" in shown.reason
            assert "trilun pair resolve remote --discard NODE" in shown.next_step
        resolve = m.PairResolve(name="remote", discard="b")
        await a.do("pair.resolve", resolve)
        await a.until("remote", S.PAIR)
        info = a.pair("remote")
        assert info.resync_union_bytes == 2 * BLOCK
        assert info.resync_discarded_bytes == BLOCK
        assert a.image("first") == b.image("second")
        assert await read(a.volume("first"), 0, 2 * BLOCK) == b"p" * BLOCK + bytes(BLOCK)
        assert not a.pair("remote").split_brain
        assert (await a.do("pair.resolve", resolve)).verdict is Verdict.NO_OP


@pytest.mark.parametrize("at", ["a", "b"])
async def test_a_split_brain_may_end_with_the_primary_s_writes_given_up(
    at: str, tmp_path: Path
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(a.volume("first"), 0, b"p" * BLOCK)
        await write(b.volume("second"), BLOCK, b"s" * BLOCK)
        node = a if at == "a" else b
        with pytest.raises(RejectedError, match="no side of pair") as refused:
            await node.do("pair.resolve", m.PairResolve(name="remote", discard="c"))
        assert "'a'" in refused.value.next_step
        assert "'b'" in refused.value.next_step
        await node.do("pair.resolve", m.PairResolve(name="remote", discard="a"))
        await a.until("remote", S.PAIR)
        assert await read(a.volume("first"), 0, 2 * BLOCK) == bytes(BLOCK) + b"s" * BLOCK
        assert a.image("first") == b.image("second")


async def test_there_is_nothing_to_resolve_where_only_one_side_was_written(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), BLOCK, b"s" * BLOCK)
        with pytest.raises(RejectedError, match="no split-brain"):
            await a.do("pair.resolve", m.PairResolve(name="remote", discard="b"))
        # Nor does a resync that names no side throw away what was written.
        with pytest.raises(RejectedError) as refused:
            await a.do("pair.resync", m.PairResync(name="remote"))
        assert refused.value.code is Code.DIRECTION_NEEDED
        assert "--reverse" in refused.value.next_step
        assert "--forward" in refused.value.next_step
        forward = m.PairResync(name="remote", direction=m.Direction.FORWARD)
        await a.do("pair.resync", forward)
        await a.until("remote", S.PAIR)
        assert await read(a.volume("first"), BLOCK, BLOCK) == bytes(BLOCK)
        assert a.image("first") == b.image("second")


async def test_a_write_that_comes_behind_the_decision_is_not_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law L8: nobody named a direction, and the S-VOL was not written when it was chosen."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(a.volume("first"), 0, b"p" * BLOCK)
        leader = a.node.pairs.get("remote")._leader
        ask_report = leader.ask_report

        async def met() -> msg.Report:
            report = await ask_report()
            monkeypatch.undo()
            await write(b.volume("second"), BLOCK, b"s" * BLOCK)
            return report

        monkeypatch.setattr(leader, "ask_report", met)
        with pytest.raises(RejectedError, match="written just now"):
            await a.do("pair.resync", m.PairResync(name="remote"))
        assert await read(b.volume("second"), BLOCK, BLOCK) == b"s" * BLOCK
        assert (a.pair("remote").state, b.pair("remote").state) == (S.PSUS, S.SSUS)
        with pytest.raises(RejectedError, match="split-brain"):
            await a.do("pair.resync", m.PairResync(name="remote"))
        await a.do("pair.resync", m.PairResync(name="remote", direction=m.Direction.FORWARD))
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_a_pair_the_other_side_forgot_can_be_deleted(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await unlinked(a, b)
        await b.do("pair.delete", m.PairDelete(name="remote", force=True))
        await relink(a, b)
        info = await eventually(
            lambda: info if "doesn't know" in (info := a.pair("remote")).reason else None
        )
        assert info.state is S.PSUE
        async with asyncio.timeout(5):
            await a.do("pair.delete", m.PairDelete(name="remote"))
        assert a.node.pairs.find("remote") is None


async def test_a_half_the_primary_forgot_can_be_deleted_or_paired_again(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await unlinked(a, b)
        with pytest.raises(RejectedError) as refused:
            await a.do("pair.delete", m.PairDelete(name="remote"))
        assert refused.value.code is Code.NO_PEER
        await a.do("pair.delete", m.PairDelete(name="remote", force=True))
        await relink(a, b)
        async with asyncio.timeout(5):
            await b.do("pair.delete", m.PairDelete(name="remote", force=True))
        assert b.node.pairs.find("remote") is None
        await a.do("pair.create", remote_pair())
        await a.until("remote", S.PAIR)
        await unlinked(a, b)
        await a.do("pair.delete", m.PairDelete(name="remote", force=True))
        await relink(a, b)
        async with asyncio.timeout(5):
            await a.do("pair.create", remote_pair())
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_messages_about_a_pair_nobody_knows_are_not_echoed_for_ever(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, _):
        stream = a.node.links.stream("b")
        assert stream is not None
        stream.send_control(b"\x01" * 16, {"kind": "report"})
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=BLOCK))
        await eventually(lambda: stream._next_in > 1)
        await asyncio.sleep(0.05)
        assert stream._next_in < 4


async def test_a_peer_that_is_not_configured_there_says_so(tmp_path: Path) -> None:
    b = await start_node(tmp_path / "b", "b", [])
    a = await start_node(tmp_path / "a", "a", [Peer("b", "127.0.0.1", b.node.link_port)])
    try:
        detail = await eventually(
            lambda: d if "is not a peer of" in (d := a.published.detail) else None,
            lambda: a.published.detail,
        )
        assert "add a [[peer]] section" in detail
        assert not a.node.links.connected("b")
    finally:
        await a.stop()
        await b.stop()


async def test_a_peer_that_is_another_node_than_before_says_so(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        port = b.node.link_port
        await eventually(lambda: a.node.catalogue.contents.peers.get("b"))
        await b.stop()
        impostor = await start_node(tmp_path / "other", "b", [Peer("a", "127.0.0.1", 1)], port=port)
        for node in (a, impostor):
            await eventually(
                lambda: "another node" in a.published.detail,
                lambda: f"{a.published.detail} / {impostor.published.detail}",
            )
            assert not node.node.links.connected("a" if node is impostor else "b")
        await impostor.stop()
        back = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)], port=port)
        await linked(a, back)
        b.node, b.offload = back.node, back.offload


async def test_a_peer_of_another_version_says_so(tmp_path: Path, monkeypatch: object) -> None:
    b = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)])
    hello = b.node.links.hello
    b.node.links.hello = (  # type: ignore[method-assign]
        lambda refused="": hello(refused).model_copy(update={"link_version": 9})
    )
    a = await start_node(tmp_path / "a", "a", [Peer("b", "127.0.0.1", b.node.link_port)])
    try:
        await eventually(
            lambda: "speaks link version 9" in a.published.detail, lambda: a.published.detail
        )
    finally:
        await a.stop()
        await b.stop()


async def test_a_write_to_a_cold_extent_is_acknowledged_at_once(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=8 << 20)
        loop = asyncio.get_running_loop()
        took_s = []
        for extent in range(10):
            began_s = loop.time()
            await write(a.volume("first"), extent << 18, b"c" * BLOCK)
            took_s.append(loop.time() - began_s)
        assert sorted(took_s)[5] < 0.2, took_s
