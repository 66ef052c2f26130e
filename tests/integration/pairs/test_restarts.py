"""Controllers that stop, cleanly or not, and come back: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from controller.api import messages as m
from controller.link.transport import Peer
from controller.pair import messages as msg
from controller.pair.follower import Follower
from controller.volume.slots import CorruptError
from targets.lun import LunError
from tests.rig import Running, chain, eventually, flush, linked, read, start_node, write

S = m.PairState
BLOCK = 4096
SIZE = 4 << 20
SLOW_BYTES_PER_S = 1 << 20

How = Literal["clean", "killed", "powerless"]
HOWS: list[How] = ["clean", "killed", "powerless"]
"""Stopped; killed with everything that was written kept; with the write cache lost in part."""


class Site:
    """Two controllers whose files outlive them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.up: dict[str, Running] = {}
        self.chance = random.Random(7)

    @property
    def a(self) -> Running:
        return self.up["a"]

    @property
    def b(self) -> Running:
        return self.up["b"]

    async def start(self, name: str) -> None:
        peer = Peer("b", "127.0.0.1", self.port) if name == "a" else Peer("a", "127.0.0.1", 1)
        port = self.port if name == "b" else 0
        node = await start_node(self.directory / name, name, [peer], port=port, crashes=True)
        self.up[name] = node
        if name == "b":
            self.port = node.node.link_port

    async def stop(self, name: str, how: How) -> None:
        node = self.up.pop(name)
        if how == "clean":
            await node.stop()
        else:
            await node.crash(self.chance if how == "powerless" else None)

    async def restart(self, name: str, how: How) -> None:
        await self.stop(name, how)
        await self.start(name)

    async def linked(self) -> None:
        await linked(self.a, self.b)

    async def in_sync(self) -> None:
        await self.linked()
        for node in (self.a, self.b):
            await node.until("remote", S.PAIR)
        assert self.a.image("first") == self.b.image("second")
        assert self.a.pair("remote").dirty_bytes == self.b.pair("remote").dirty_bytes == 0


@asynccontextmanager
async def site(directory: Path, **remote: object) -> AsyncIterator[Site]:
    both = Site(directory)
    try:
        await both.start("b")
        await both.start("a")
        await both.linked()
        await chain(both.a, both.b, size_bytes=SIZE, **remote)
        yield both
    finally:
        for node in both.up.values():
            await node.stop()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_mirror_goes_on(name: str, how: How, tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        for block in range(0, 300, 7):
            await write(both.a.volume("first"), block * BLOCK, bytes([block % 251]) * BLOCK)
        await flush(both.a.volume("first"))
        flushed = both.a.image("first")
        for block in range(400, 420):
            await write(both.a.volume("first"), block * BLOCK, b"u" * BLOCK)
        await both.restart(name, how)
        await both.in_sync()
        await both.b.until("local", S.PAIR)
        assert both.b.image("third") == both.b.image("second")
        kept = both.a.image("first")
        assert kept[: 400 * BLOCK] == flushed[: 400 * BLOCK], "law L5"
        if how != "powerless":
            assert kept[400 * BLOCK : 420 * BLOCK] == b"u" * (20 * BLOCK)
        if how == "clean":
            assert both.a.pair("remote").resync_payload_bytes == 0, "nothing was in doubt"
        await write(both.a.volume("first"), 0, b"!" * BLOCK)
        assert both.a.image("first") == both.b.image("second") == both.b.image("third")


@pytest.mark.parametrize("how", HOWS)
async def test_both_go_at_once(how: How, tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"f" * 50 * BLOCK, fua=True)
        await write(both.a.volume("first"), 500 * BLOCK, b"u" * BLOCK)
        await both.stop("b", how)
        await both.stop("a", how)
        await both.start("b")
        await both.start("a")
        await both.in_sync()
        assert both.a.image("first")[: 50 * BLOCK] == b"f" * 50 * BLOCK
        await both.b.until("local", S.PAIR)
        assert both.b.image("second") == both.b.image("third")


@pytest.mark.parametrize("how", HOWS)
async def test_what_is_written_while_the_secondary_is_away(how: How, tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await both.stop("b", how)
        await both.a.until("remote", S.PSUE)
        await write(both.a.volume("first"), 3 * BLOCK, b"w" * BLOCK)
        # The marks have to outlive this controller as well.
        await both.restart("a", how)
        assert both.a.pair("remote").dirty_bytes >= BLOCK
        await both.start("b")
        await both.in_sync()
        if how != "powerless":
            assert await read(both.a.volume("first"), 3 * BLOCK, BLOCK) == b"w" * BLOCK
        if how == "clean":
            assert both.a.pair("remote").resync_union_bytes == BLOCK


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_copy_that_is_interrupted_goes_on(name: str, how: How, tmp_path: Path) -> None:
    async with site(tmp_path, rate_limit_bytes_per_s=2 * SLOW_BYTES_PER_S) as both:
        await both.a.do("pair.split", m.PairSplit(name="remote"))
        await write(both.a.volume("first"), 0, b"c" * (2 << 20), fua=True)
        expected = both.a.image("first")
        before = both.b.image("third")
        await both.a.do("pair.resync", m.PairResync(name="remote"))
        await both.b.until("local", S.PSUS)
        await eventually(lambda: both.a.pair("remote").resync_payload_bytes > 0)
        assert both.b.image("third") == before, "law L7"
        await both.restart(name, how)
        await both.in_sync()
        assert both.a.image("first") == expected
        await both.b.until("local", S.PAIR)
        assert both.b.image("third") == expected


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_reverse_copy_that_is_interrupted_goes_on_backwards(
    name: str, how: How, tmp_path: Path
) -> None:
    async with site(tmp_path) as both:
        await both.b.do("pair.split", m.PairSplit(name="local"))
        await both.a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(both.b.volume("second"), 0, b"r" * (2 << 20), fua=True)
        expected = both.b.image("second")
        await both.a.do(
            "pair.resync",
            m.PairResync(
                name="remote",
                direction=m.Direction.REVERSE,
                rate_limit_bytes_per_s=2 * SLOW_BYTES_PER_S,
            ),
        )
        await eventually(lambda: both.b.pair("remote").resync_payload_bytes > 0)
        await both.restart(name, how)
        if both.a.pair("remote").state is not S.PAIR:
            with pytest.raises(LunError):
                await read(both.a.volume("first"), 0, BLOCK)
        await both.in_sync()
        assert both.a.image("first") == expected


@pytest.mark.parametrize("how", HOWS)
async def test_a_split_stays_and_both_sides_keep_their_marks(how: How, tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        split = m.PairSplit(name="remote", writable=True, label="before")
        await both.a.do("pair.split", split)
        await write(both.a.volume("first"), 0, b"1" * BLOCK, fua=True)
        await write(both.b.volume("second"), 9 * BLOCK, b"2" * BLOCK, fua=True)
        await both.restart("a", how)
        await both.linked()
        await both.restart("b", how)
        await both.linked()
        await both.a.node.pairs.get("remote").caught_up()
        assert (both.a.pair("remote").state, both.b.pair("remote").state) == (S.PSUS, S.SSUS)
        assert both.a.pair("remote").split_label == both.b.pair("remote").split_label == "before"
        assert both.a.pair("remote").dirty_bytes >= BLOCK
        assert both.b.pair("remote").dirty_bytes >= BLOCK
        await write(both.b.volume("second"), 10 * BLOCK, b"3" * BLOCK)
        await both.a.do("pair.resolve", m.PairResolve(name="remote", discard="b"))
        await both.in_sync()
        assert await read(both.a.volume("first"), 0, BLOCK) == b"1" * BLOCK
        assert await read(both.a.volume("first"), 9 * BLOCK, BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize("how", HOWS)
async def test_a_split_told_to_a_secondary_that_lost_its_cache_is_no_instant(
    how: How, tmp_path: Path
) -> None:
    """Laws L7, L11: what a host was told is done, before the split, may be missing there."""
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"a" * 20 * BLOCK)
        await both.stop("b", how)
        await both.a.until("remote", S.PSUE)
        await both.a.do("pair.split", m.PairSplit(name="remote", label="monday"))
        await both.start("b")
        await both.linked()
        await both.a.node.pairs.get("remote").caught_up()
        p, s = both.a.pair("remote"), both.b.pair("remote")
        assert p.state is S.PSUS
        if how == "clean":
            assert (s.state, p.split_label, p.reason) == (S.SSUS, "monday", "")
            assert both.a.image("first") == both.b.image("second")
        else:
            assert (s.state, p.split_label) == (S.PSUE, "")
            for side in (p, s):
                assert "no point in time" in side.reason
                assert "trilun pair resync remote" in side.next_step
        await both.a.do("pair.resync", m.PairResync(name="remote"))
        await both.in_sync()
        await both.a.do("pair.split", m.PairSplit(name="remote", label="tuesday"))
        assert (both.b.pair("remote").state, both.a.pair("remote").split_label) == (
            S.SSUS,
            "tuesday",
        )


async def test_a_view_does_not_outlive_its_controller(tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"v" * BLOCK)
        await both.a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        before = both.b.image("third")
        await both.b.do("view.open", m.ViewOpen(volume="third", view="look"))
        await write(both.b.volume("look"), 0, b"x" * BLOCK)
        data = tmp_path / "b" / "data"
        assert list(data.glob("*.view"))
        await both.restart("b", "killed")
        assert not list(data.glob("*.view"))
        assert both.b.image("third") == before
        await both.in_sync()
        await both.b.do("pair.resync", m.PairResync(name="local"))
        await both.b.until("local", S.PAIR)


# ---------------------------------------------------------------- damaged metadata


@pytest.mark.parametrize("kind", ["*.meta", "*.s.bitmap"])
async def test_damaged_metadata_is_taken_as_all_dirty(kind: str, tmp_path: Path) -> None:
    """Never as clean: everything is compared by copying it."""
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"d" * BLOCK)
        second = both.b.node.volumes.get("second").record.id
        pair = both.b.node.pairs.get("remote").record.id
        await both.stop("b", "clean")
        meta = tmp_path / "b" / "meta"
        for path in meta.glob(kind):
            if path.name.startswith((second, pair)):
                path.write_bytes(b"\xa5" * path.stat().st_size)
        await both.start("b")
        assert both.b.pair("remote").dirty_bytes == SIZE
        await both.in_sync()
        assert both.a.pair("remote").resync_union_bytes == SIZE


async def test_a_catalogue_that_is_damaged_or_of_another_node_is_refused(tmp_path: Path) -> None:
    node = await start_node(tmp_path / "n", "n", [])
    await node.do("volume.create", m.VolumeCreate(name="v", size_bytes=BLOCK))
    await node.stop()
    with pytest.raises(CorruptError, match="catalogue of node 'n', not 'other'"):
        await start_node(tmp_path / "n", "other", [])
    path = tmp_path / "n" / "meta" / "catalogue"
    path.write_bytes(b"\x5a" * path.stat().st_size)
    with pytest.raises(CorruptError):
        await start_node(tmp_path / "n", "n", [])


async def test_what_the_guard_split_follows_again_although_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller dies between the decision to copy and the copy's begin."""
    reached, real = asyncio.Event(), Follower._prepare

    async def prepare(follower: Follower, message: msg.Prepare) -> None:
        if follower._record.name == "local":
            reached.set()
            await asyncio.Event().wait()
        await real(follower, message)

    async with site(tmp_path) as both:
        await both.a.do("pair.split", m.PairSplit(name="remote"))
        await write(both.a.volume("first"), 0, b"g" * BLOCK)
        monkeypatch.setattr(Follower, "_prepare", prepare)
        await both.a.do("pair.resync", m.PairResync(name="remote"))
        await asyncio.wait_for(reached.wait(), 30)
        # Another pair's commit writes down the whole catalogue meanwhile.
        await both.b.node.catalogue.commit()
        await both.stop("b", "killed")
        monkeypatch.undo()
        await both.start("b")
        await both.in_sync()
        await both.b.until("local", S.PAIR)
        assert both.b.image("third") == both.b.image("second")
