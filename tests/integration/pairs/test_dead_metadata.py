"""A disk for metadata that is gone halts the pairs, once; it must not keep the loop busy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.link.channel import Control
from controller.volume.store import StoreDone, StoreError, StoreFault
from tests.rig import eventually, remote_pair, start_node, two_nodes

S = m.PairState


def dead_disk(payload: bytes, done: StoreDone) -> None:
    del payload
    done(StoreError(StoreFault.IO, "the disk is gone"))


async def test_both_sides_of_a_local_pair_are_halted_once(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "b", [])
    try:
        for name in ("second", "third"):
            await node.do("volume.create", m.VolumeCreate(name=name, size_bytes=1 << 20))
        await node.do(
            "pair.create",
            m.PairCreate(name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third"),
        )
        await node.until("local", S.PAIR)
        said: list[str] = []
        for owner in node.node.pairs.owners():
            channel = owner.side.channel
            assert channel is not None
            control = channel.control

            def counted(message: Control, control: object = control) -> None:
                said.append(message["kind"])
                assert callable(control)
                control(message)

            channel.control = counted  # type: ignore[method-assign]

        def dead(done: StoreDone) -> None:
            done(StoreError(StoreFault.IO, "the disk is gone"))

        working = node.node.catalogue.commit_then
        node.node.catalogue.commit_then = dead  # type: ignore[method-assign]
        with pytest.raises(RejectedError) as refused:
            await node.do("pair.split", m.PairSplit(name="local"))
        assert refused.value.code is Code.IO_ERROR
        await eventually(
            lambda: all(owner.record.state is S.PSUE for owner in node.node.pairs.owners())
        )
        for _ in range(200):
            await asyncio.sleep(0)
        assert said.count("failed") <= 2
        node.node.catalogue.commit_then = working  # type: ignore[method-assign]
    finally:
        await node.stop()


@pytest.mark.parametrize("dead", ["a", "b"])
async def test_nobody_builds_on_the_word_of_a_node_that_can_write_nothing_down(
    tmp_path: Path, dead: str
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=1 << 20))
        await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=1 << 20))
        await a.do("pair.create", remote_pair())
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        node, other = (a, b) if dead == "a" else (b, a)
        name = "first" if dead == "a" else "second"
        node.node.catalogue._ring.commit = dead_disk  # type: ignore[method-assign]
        with pytest.raises(RejectedError):
            await node.do("volume.create", m.VolumeCreate(name="more", size_bytes=1 << 20))
        await a.until("remote", S.PSUE)
        await b.until("remote", S.PSUE)
        # What it says now, it will have forgotten at its next start.
        node.volume(name).state.consistent = not node.volume(name).state.consistent
        await eventually(lambda: "mend its disk" in other.node.detail())
        assert "mend its disk" in node.node.detail()
        for direction in m.Direction:
            with pytest.raises(RejectedError) as refused:
                await a.do(
                    "pair.resync", m.PairResync(name="remote", direction=direction, force=True)
                )
            assert refused.value.code is Code.NO_PEER
        node.volume(name).state.consistent = True


async def test_a_node_that_can_write_nothing_down_stops_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node(tmp_path, "a", [])
    await node.do("volume.create", m.VolumeCreate(name="first", size_bytes=1 << 20))
    node.node.catalogue._ring.commit = dead_disk  # type: ignore[method-assign]
    await node.stop()
    assert "can't be written: io: the disk is gone" in caplog.text
    node = await start_node(tmp_path, "a", [])
    assert node.image("first") == bytes(1 << 20)
    await node.stop()
