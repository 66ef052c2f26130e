"""Disks that fail, fill up and lie: what a host is told, what is marked, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.link.transport import Peer
from controller.volume.faulty import FaultRule
from targets.lun import LunError, LunFault
from tests.integration.pairs.faults import Faults
from tests.rig import (
    LOCAL_PAIR,
    Running,
    chain,
    discard,
    eventually,
    flush,
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
SIZE = 1 << 20


@dataclass
class Pair:
    """Two nodes, and the faults of each one's disk."""

    a: Running
    b: Running
    at_a: Faults
    at_b: Faults

    def rules(self, volume: str, *rules: FaultRule) -> None:
        node, faults = (self.a, self.at_a) if volume == "first" else (self.b, self.at_b)
        faults.disk.rules(node.node.volumes.get(volume).record.id, *rules)

    async def both(self, *states: m.PairState) -> None:
        await self.a.until("remote", *states)
        await self.b.until("remote", *states)

    def equal(self) -> bool:
        return self.a.image("first") == self.b.image("second")


@asynccontextmanager
async def paired(directory: Path, **remote: object) -> AsyncIterator[Pair]:
    at_a, at_b = Faults(), Faults()
    b = await start_node(directory / "b", "b", [Peer("a", "127.0.0.1", 1)], wrap=at_b.wrap)
    a = await start_node(
        directory / "a", "a", [Peer("b", "127.0.0.1", b.node.link_port)], wrap=at_a.wrap
    )
    try:
        await linked(a, b)
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
        await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=SIZE))
        await a.do("pair.create", remote_pair(**remote))
        pair = Pair(a, b, at_a, at_b)
        await pair.both(S.PAIR)
        yield pair
    finally:
        await a.stop()
        await b.stop()


async def fault_of(call: object) -> LunFault | None:
    try:
        await call  # type: ignore[misc]
    except LunError as error:
        return error.fault
    return None


async def resync(pair: Pair) -> None:
    await pair.a.do("pair.resync", m.PairResync(name="remote"))
    await pair.both(S.PAIR)
    assert pair.equal()
    assert pair.a.pair("remote").dirty_bytes == pair.b.pair("remote").dirty_bytes == 0


@pytest.mark.parametrize("action", ["fail", "no_space"])
@pytest.mark.parametrize(
    ("fence", "expected"),
    [(m.Fence.NEVER, None), (m.Fence.STATUS, None), (m.Fence.DATA, LunFault.FENCED)],
)
async def test_a_secondary_that_cannot_write(
    tmp_path: Path, fence: m.Fence, expected: LunFault | None, action: str
) -> None:
    """With the link up the primary learns that the other side is suspended: `status` goes on."""
    async with paired(tmp_path, fence=fence) as pair:
        first = pair.a.volume("first")
        await write(first, 0, b"0" * BLOCK)
        rule = FaultRule("write", "no_space" if action == "no_space" else "fail")
        pair.rules("second", rule)
        assert await fault_of(write(first, BLOCK, b"1" * BLOCK)) is expected
        await pair.both(S.PSUE)
        assert await fault_of(write(first, 2 * BLOCK, b"2" * BLOCK)) is expected
        info = pair.a.pair("remote")
        assert "the other side failed" in info.reason
        assert "trilun pair resync remote" in info.next_step
        assert "on purpose" in pair.b.pair("remote").reason
        # Marked on the side that has it, and the primary's host lost nothing it was told is done.
        assert info.dirty_bytes >= BLOCK
        assert await read(first, BLOCK, BLOCK) == b"1" * BLOCK
        assert pair.b.volume("second").state.healthy
        await unlinked(pair.a, pair.b)
        await relink(pair.a, pair.b)
        await pair.a.node.pairs.get("remote").caught_up()
        assert pair.a.pair("remote").state is S.PSUE, "an operator has to look first"
        await resync(pair)
        await write(first, 0, b"!" * BLOCK)
        assert pair.equal()


@pytest.mark.parametrize(
    ("action", "fault"), [("fail", LunFault.WRITE_ERROR), ("no_space", LunFault.NO_SPACE)]
)
async def test_a_primary_that_cannot_write(tmp_path: Path, action: str, fault: LunFault) -> None:
    async with paired(tmp_path) as pair:
        first = pair.a.volume("first")
        rule = FaultRule("write", "no_space" if action == "no_space" else "fail")
        pair.rules("first", rule)
        assert await fault_of(write(first, 3 * BLOCK, b"x" * BLOCK)) is fault
        await pair.a.until("remote", S.PSUE)
        # What the store left behind is unknown: the block is marked, and travels.
        assert pair.a.pair("remote").dirty_bytes >= BLOCK
        assert await fault_of(write(first, 4 * BLOCK, b"y" * BLOCK)) is None
        await pair.b.until("remote", S.PSUE)
        await resync(pair)


async def test_a_full_secondary_takes_discards_and_goes_on(tmp_path: Path) -> None:
    """Law L10: ENOSPC leaves the metadata whole."""
    async with paired(tmp_path) as pair:
        first = pair.a.volume("first")
        await write(first, 0, b"d" * 8 * BLOCK)
        pair.rules("second", FaultRule("write", "no_space", times=1 << 30))
        await write(first, 64 * BLOCK, b"n" * BLOCK)
        await pair.both(S.PSUE)
        await pair.a.do("pair.resync", m.PairResync(name="remote"))
        info = await pair.a.until("remote", S.PSUE)
        assert "no space" in info.reason
        await pair.b.until("remote", S.PSUE)
        assert not pair.b.volume("second").state.consistent
        with pytest.raises(RejectedError) as refused:
            await pair.a.do(
                "pair.resync", m.PairResync(name="remote", direction=m.Direction.REVERSE)
            )
        assert refused.value.code is Code.NOT_CONSISTENT
        pair.rules("second")
        await discard(first, 0, 8 * BLOCK)
        await resync(pair)


@pytest.mark.parametrize("volume", ["first", "second"])
async def test_a_copy_that_meets_a_bad_disk_stops_and_can_be_resumed(
    tmp_path: Path, volume: str
) -> None:
    async with paired(tmp_path) as pair:
        await pair.a.do("pair.split", m.PairSplit(name="remote"))
        await write(pair.a.volume("first"), 0, b"c" * 64 * BLOCK)
        call = "read" if volume == "first" else "write"
        pair.rules(volume, FaultRule("read" if call == "read" else "write", "fail"))
        await pair.a.do("pair.resync", m.PairResync(name="remote"))
        await pair.both(S.PSUE)
        assert pair.a.pair("remote").dirty_bytes
        await resync(pair)


# ---------------------------------------------------------------- fsync


async def test_a_failed_fsync_at_the_primary_fails_the_volume_for_good(tmp_path: Path) -> None:
    """Law L10: it is never tried again as if nothing had happened."""
    async with paired(tmp_path) as pair:
        first = pair.a.volume("first")
        await write(first, 0, b"x" * BLOCK)
        pair.rules("first", FaultRule("flush", "fail"))
        assert await fault_of(flush(first)) is LunFault.WRITE_ERROR
        await pair.both(S.PSUE)
        assert await fault_of(flush(first)) is not None
        assert await fault_of(write(first, 0, b"y" * BLOCK)) is not None
        info = pair.a.node.volume_info("first")
        assert (info.healthy, info.access) == (False, m.AccessInfo.NOT_READY)
        for direction in m.Direction:
            again = m.PairResync(name="remote", direction=direction, full=True)
            with pytest.raises(RejectedError, match="volume 'first' has failed") as refused:
                await pair.a.do("pair.resync", again)
            assert "made anew" in refused.value.next_step
        # What is good is on the secondary: a host can have it from there.
        await pair.a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(pair.b.volume("second"), BLOCK, b"s" * BLOCK)
        assert await read(pair.b.volume("second"), 0, 2 * BLOCK) == b"x" * BLOCK + b"s" * BLOCK
        await pair.a.do("pair.delete", m.PairDelete(name="remote"))
        with pytest.raises(RejectedError, match="has failed"):
            await pair.a.do("pair.create", remote_pair())
        await pair.a.do("volume.delete", m.VolumeDelete(name="first"))
        await pair.a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))


async def test_a_failed_fsync_at_the_secondary_fails_its_volume(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        first = pair.a.volume("first")
        await write(first, 0, b"x" * BLOCK)
        pair.rules("second", FaultRule("flush", "fail"))
        assert await fault_of(flush(first)) is None, "fence level never goes on"
        await pair.both(S.PSUE)
        assert not pair.b.volume("second").state.healthy
        assert await fault_of(write(first, BLOCK, b"y" * BLOCK)) is None
        assert pair.a.pair("remote").dirty_bytes >= BLOCK
        with pytest.raises(RejectedError, match="has failed"):
            await pair.a.do("pair.resync", m.PairResync(name="remote"))
        reverse = m.PairResync(name="remote", direction=m.Direction.REVERSE)
        with pytest.raises(RejectedError):
            await pair.a.do("pair.resync", reverse)
        assert pair.a.volume("first").state.consistent


async def test_what_a_failed_flush_may_have_lost_is_marked(tmp_path: Path) -> None:
    """Law L1: writes that the secondary only had in its cache."""
    async with paired(tmp_path) as pair:
        first = pair.a.volume("first")
        for block in (1, 5, 9):
            await write(first, block * BLOCK, b"w" * BLOCK)
        pair.rules("second", FaultRule("flush", "fail"))
        await fault_of(write(first, 20 * BLOCK, b"f" * BLOCK, fua=True))
        await pair.both(S.PSUE)
        hot = pair.b.volume("second").intent
        assert hot is not None
        marked = pair.b.node.pairs.get("remote").side.bitmap
        for block in (1, 5, 9, 20):
            extent = block * BLOCK // hot.extent_bytes
            assert marked.test(block) or extent in hot.hot


# ---------------------------------------------------------------- behind the second volume


async def test_a_third_that_fails_does_not_disturb_the_remote_mirror(tmp_path: Path) -> None:
    at_b = Faults()
    b = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)], wrap=at_b.wrap)
    a = await start_node(tmp_path / "a", "a", [Peer("b", "127.0.0.1", b.node.link_port)])
    try:
        await linked(a, b)
        await chain(a, b)
        at_b.disk.rules(b.node.volumes.get("third").record.id, FaultRule("write", "fail"))
        await write(a.volume("first"), 0, b"3" * BLOCK)
        await b.until("local", S.PSUE)
        assert a.pair("remote").state is b.pair("remote").state is S.PAIR
        await write(a.volume("first"), BLOCK, b"4" * BLOCK)
        assert a.image("first") == b.image("second")
        await b.do("pair.resync", m.PairResync(name="local"))
        await b.until("local", S.PAIR)
        assert b.image("second") == b.image("third")
    finally:
        await a.stop()
        await b.stop()


async def test_reads_that_wait_for_a_disk_hold_nothing_up(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        first = pair.a.volume("first")
        store_id = pair.a.node.volumes.get("first").record.id
        store = pair.at_a.disk.rules(store_id, FaultRule("read", "hold"))
        reading = asyncio.create_task(read(first, 0, BLOCK))
        await eventually(lambda: store.held)
        await write(first, BLOCK, b"w" * BLOCK)
        await flush(first)
        assert not reading.done()
        store.release()
        assert await reading == bytes(BLOCK)


async def test_a_split_behind_a_write_that_fails_is_no_instant(tmp_path: Path) -> None:
    """Law L11: what the S-VOL lacks was written before the split, so there was none."""
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (_, b):
        for name in ("second", "third"):
            await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        record = b.node.volumes.get("third").record
        store = faults.disk.rules(
            record.id, FaultRule("write", "hold"), FaultRule("write", "no_space")
        )
        first = asyncio.create_task(write(b.volume("second"), 0, b"1" * BLOCK))
        await eventually(lambda: bool(store.held))
        b.volume("third").barrier(lambda: None)
        second = asyncio.create_task(write(b.volume("second"), BLOCK, b"2" * BLOCK))
        await eventually(lambda: len(b.volume("third")._queue) == 2)
        split = asyncio.create_task(b.do("pair.split", m.PairSplit(name="local")))
        await eventually(lambda: len(b.volume("third")._queue) == 3)
        store.release()
        with pytest.raises(RejectedError, match="it failed"):
            await split
        await asyncio.gather(first, second)
        assert b.pair("local").state is S.PSUE
        assert "mend" in b.pair("local").next_step
        await b.do("pair.resync", m.PairResync(name="local"))
        await b.until("local", S.PAIR)
        assert b.image("second") == b.image("third")
