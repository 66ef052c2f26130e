"""A volume becomes larger under its hosts, and stays one of two sizes wherever power is lost."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import controller.growing as growing_module
from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.link.transport import Peer
from controller.volume.faulty import FaultRule
from controller.volume.store import StoreDone, StoreError, StoreFault
from targets.lun import UnitAttention
from tests.integration.pairs.faults import Faults
from tests.integration.pairs.states import BLOCK, refused
from tests.rig import (
    LOCAL_PAIR,
    Running,
    chain,
    eventually,
    flush,
    linked,
    read,
    remote_pair,
    start_node,
    two_nodes,
    write,
)

S = m.PairState
SMALL, LARGE = 1 << 20, 3 << 20
GROW = m.VolumeGrow(name="v", size_bytes=LARGE)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """RLIMIT_FSIZE of setrlimit(2): EFBIG, since Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def with_volume(node: Running) -> None:
    await node.do("volume.create", m.VolumeCreate(name="v", size_bytes=SMALL))
    await write(node.volume("v"), SMALL - BLOCK, b"e" * BLOCK)
    await flush(node.volume("v"))


async def test_hosts_hear_of_it_and_have_it_after_a_restart(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await with_volume(node)
    node.logged_in("v", "iqn.host1")
    outcome = await node.do("volume.grow", GROW)
    assert isinstance(outcome.result, m.VolumeInfo)
    assert outcome.result.size_bytes == LARGE
    iqn = node.node.volumes.get("v").iqn
    assert node.exporter.attentions == [(iqn, UnitAttention.CAPACITY_CHANGED)]
    assert (await node.do("volume.grow", GROW)).verdict is Verdict.NO_OP
    assert len(node.exporter.attentions) == 1
    volume = node.volume("v")
    assert volume.intent is not None
    assert volume.intent.extents * volume.intent.extent_bytes == LARGE
    assert await read(volume, SMALL - BLOCK, 2 * BLOCK) == b"e" * BLOCK + bytes(BLOCK)
    await write(volume, LARGE - BLOCK, b"l" * BLOCK)
    image = node.image("v")
    await node.stop()
    again = await start_node(tmp_path, "n", [])
    try:
        assert again.volume("v").size_bytes == LARGE
        assert again.node.volumes.get("v").hot_at_start is not None, "its log was believed"
        assert again.image("v") == image
    finally:
        await again.stop()


async def test_what_pairs_and_views_need_as_it_is_stays_so(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        for node, name in ((a, "first"), (b, "second"), (b, "third")):
            error = await refused(node, "volume.grow", m.VolumeGrow(name=name, size_bytes=LARGE))
            assert error.code is Code.IN_USE
            assert "trilun pair delete" in error.next_step
        smaller = m.VolumeGrow(name="first", size_bytes=SMALL // 2)
        error = await refused(a, "volume.grow", smaller)
        assert error.code is Code.BAD_REQUEST
        assert "never shrinks" in error.message
        await b.do("pair.split", m.PairSplit(name="local"))
        await b.do("view.open", m.ViewOpen(volume="third", view="view"))
        view = m.VolumeGrow(name="view", size_bytes=LARGE)
        assert (await refused(b, "volume.grow", view)).code is Code.BAD_REQUEST
        await b.do("view.close", m.Named(name="view"))

        # The way to larger pairs: delete them, grow all three, pair them again.
        await b.do("pair.delete", m.PairDelete(name="local"))
        await a.do("pair.delete", m.PairDelete(name="remote"))
        for node, name in ((a, "first"), (b, "second"), (b, "third")):
            await eventually(lambda n=node, v=name: not n.volume(v).trackers)  # type: ignore[misc]
            await node.do("volume.grow", m.VolumeGrow(name=name, size_bytes=LARGE))
        await a.do("pair.create", remote_pair())
        await b.until("remote", S.PAIR)
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        # Beyond the old end, from one end of the new part to the other: the log's extents, too.
        for at in range(SMALL, LARGE, 16 * BLOCK):
            await write(a.volume("first"), at, bytes([at >> 16]) * BLOCK)
        await flush(a.volume("first"))
        await eventually(lambda: b.image("third") == a.image("first") or None)
        assert a.image("first") == b.image("second")


async def test_what_was_hot_beyond_the_old_end_is_copied_after_a_crash(tmp_path: Path) -> None:
    """Growth, a pair and a crash in one run: the log on disk knows the larger volume."""
    b = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)])
    peers = [Peer("b", "127.0.0.1", b.node.link_port)]
    a = await start_node(tmp_path / "a", "a", peers, crashes=True)
    try:
        await linked(a, b)
        for node, name in ((a, "first"), (b, "second")):
            await node.do("volume.create", m.VolumeCreate(name=name, size_bytes=SMALL))
            await node.do("volume.grow", m.VolumeGrow(name=name, size_bytes=LARGE))
        await a.do("pair.create", remote_pair())
        await a.until("remote", S.PAIR)
        await write(a.volume("first"), LARGE - BLOCK, b"h" * BLOCK)
        await a.crash(random.Random(3))
        a = await start_node(tmp_path / "a", "a", peers)
        hot = a.node.volumes.get("first").hot_at_start
        assert hot is not None
        assert max(hot.extents) == LARGE // hot.extent_bytes - 1
        await linked(a, b)
        await a.do("pair.resync", m.PairResync(name="remote"))
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")
    finally:
        await a.stop()
        await b.stop()


def hold_flush(node: Running, patch: pytest.MonkeyPatch, held: asyncio.Event) -> None:
    def flush_store(done: StoreDone) -> None:
        del done
        held.set()

    patch.setattr(node.volume("v"), "flush_store", flush_store)


def hold_superblocks(node: Running, patch: pytest.MonkeyPatch, held: asyncio.Event) -> None:
    del node

    async def note_size(*_args: object) -> None:
        held.set()
        await asyncio.Event().wait()

    patch.setattr(growing_module, "note_size", note_size)


def hold_catalogue(node: Running, patch: pytest.MonkeyPatch, held: asyncio.Event) -> None:
    async def commit() -> None:
        held.set()
        await asyncio.Event().wait()

    patch.setattr(node.node.catalogue, "commit", commit)


@pytest.mark.parametrize("hold", [hold_flush, hold_superblocks, hold_catalogue])
@pytest.mark.parametrize("seed", range(4))
async def test_power_lost_on_the_way_leaves_the_old_size(
    hold: Callable[[Running, pytest.MonkeyPatch, asyncio.Event], None],
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = await start_node(tmp_path, "n", [], crashes=True)
    await with_volume(node)
    held = asyncio.Event()
    with monkeypatch.context() as patch:
        hold(node, patch, held)
        growing = asyncio.create_task(node.do("volume.grow", GROW))
        await eventually(held.is_set)
        # Hosts have the old size until it is certain.
        assert node.volume("v").size_bytes == SMALL
        assert node.exporter.attentions == []
        await node.crash(random.Random(seed))
        growing.cancel()
        await asyncio.gather(growing, return_exceptions=True)
    again = await start_node(tmp_path, "n", [], crashes=True)
    volume = again.volume("v")
    assert volume.size_bytes == SMALL
    assert await read(volume, SMALL - BLOCK, BLOCK) == b"e" * BLOCK
    assert (await again.do("volume.grow", GROW)).verdict is Verdict.ACCEPTED
    assert await read(volume, SMALL, LARGE - SMALL) == bytes(LARGE - SMALL)
    await write(volume, LARGE - BLOCK, b"l" * BLOCK)
    await flush(volume)
    await again.crash(random.Random(seed))
    last = await start_node(tmp_path, "n", [])
    try:
        assert last.volume("v").size_bytes == LARGE
        assert await read(last.volume("v"), LARGE - BLOCK, BLOCK) == b"l" * BLOCK
    finally:
        await last.stop()


async def test_a_disk_that_fails_leaves_hosts_what_they_had(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    try:
        await with_volume(node)
        with files_of_at_most(LARGE - 1):
            error = await refused(node, "volume.grow", GROW)
        assert error.code is Code.IO_ERROR
        assert "File too large" in error.message
        assert node.volume("v").size_bytes == SMALL
        assert await read(node.volume("v"), SMALL - BLOCK, BLOCK) == b"e" * BLOCK
        assert (await node.do("volume.grow", GROW)).verdict is Verdict.ACCEPTED
    finally:
        await node.stop()


async def test_a_flush_that_fails_fails_the_volume_as_ever(tmp_path: Path) -> None:
    faults = Faults()
    node = await start_node(tmp_path, "n", [], wrap=faults.wrap)
    await with_volume(node)
    faults.disk.rules(node.node.volumes.get("v").record.id, FaultRule("flush", "fail"))
    assert (await refused(node, "volume.grow", GROW)).code is Code.IO_ERROR
    assert node.volume("v").size_bytes == SMALL
    assert not node.node.volume_info("v").healthy
    assert (await refused(node, "volume.grow", GROW)).code is Code.NOT_CONSISTENT
    await node.stop()
    again = await start_node(tmp_path, "n", [])
    assert again.volume("v").size_bytes == SMALL
    await again.stop()


@pytest.mark.parametrize("step", ["note_size", "commit"])
async def test_a_disk_that_fails_half_way_fails_the_volume(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash would leave now isn't known: nothing may begin to use it."""
    node = await start_node(tmp_path, "n", [])
    await with_volume(node)

    async def failing(*_args: object) -> None:
        raise StoreError(StoreFault.IO, "on purpose")

    with monkeypatch.context() as patch:
        where = growing_module if step == "note_size" else node.node.catalogue
        patch.setattr(where, step, failing)
        assert (await refused(node, "volume.grow", GROW)).code is Code.IO_ERROR
    info = node.node.volume_info("v")
    assert info.size_bytes == node.volume("v").size_bytes == SMALL
    assert not info.healthy
    assert (await refused(node, "volume.grow", GROW)).code is Code.NOT_CONSISTENT
    await node.stop()
    again = await start_node(tmp_path, "n", [])
    assert again.volume("v").size_bytes == SMALL
    await again.stop()


@pytest.mark.parametrize("tail", [b"", bytes(BLOCK), b"d" * BLOCK])
async def test_a_longer_file_is_cut_where_nothing_is_lost(tail: bytes, tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await with_volume(node)
    file = tmp_path / "data" / f"{node.node.volumes.get('v').record.id}.volume"
    await node.stop()
    with file.open("r+b") as output:
        output.truncate(LARGE)
        output.seek(2 * SMALL)
        output.write(tail)
    if any(tail):
        with pytest.raises(StoreError, match=f"expected {SMALL}"):
            await start_node(tmp_path, "n", [])
        assert file.stat().st_size == LARGE
    else:
        again = await start_node(tmp_path, "n", [])
        assert file.stat().st_size == SMALL
        await again.stop()


async def test_neither_volume_grows_while_a_pair_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        for node, name in ((a, "first"), (b, "second"), (b, "third")):
            await node.do("volume.create", m.VolumeCreate(name=name, size_bytes=SMALL))

        async def grows(node: Running, name: str) -> bool:
            asked = m.VolumeGrow(name=name, size_bytes=LARGE)
            return (await refused(node, "volume.grow", asked)).code is not Code.IN_USE

        calling, go_on = asyncio.Event(), asyncio.Event()
        call = a.node.calls.call

        async def slow(peer: str, verb: str, params: dict[str, Any]) -> dict[str, Any]:
            calling.set()
            await go_on.wait()
            return await call(peer, verb, params)

        monkeypatch.setattr(a.node.calls, "call", slow)
        making = asyncio.create_task(a.do("pair.create", remote_pair()))
        await eventually(calling.is_set)
        assert not await grows(a, "first")
        async with b.node.pairs._making:
            # Somebody else's pair is being made there.
            go_on.set()
            second = b.node.volumes.get("second")
            await eventually(lambda: second.claims or None)
            assert not await grows(b, "second")
        await making
        await b.until("remote", S.PAIR)

        async with b.node.pairs._making:
            local = asyncio.create_task(b.do("pair.create", LOCAL_PAIR))
            third = b.node.volumes.get("third")
            await eventually(lambda: third.claims or None)
            assert not await grows(b, "third")
        await local
        await b.until("local", S.PAIR)


async def test_volumes_of_different_sizes_are_never_copied(tmp_path: Path) -> None:
    """Whatever made them so: half of a volume is no mirror."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        await b.until("remote", S.SSUS)
        b.volume("second").size_bytes -= BLOCK
        for reverse in (False, True):
            direction = m.Direction.REVERSE if reverse else m.Direction.FORWARD
            asked = m.PairResync(name="remote", direction=direction)
            error = await refused(a, "pair.resync", asked)
            assert error.code is Code.WRONG_STATE
            assert "different sizes" in error.message
        assert a.pair("remote").state is S.PSUS


async def test_a_pair_meets_a_volume_that_grows(tmp_path: Path) -> None:
    """Nothing begins to use it meanwhile, and it is free again afterwards."""
    faults = Faults()
    node = await start_node(tmp_path, "n", [], wrap=faults.wrap)
    try:
        await with_volume(node)
        await node.do("volume.create", m.VolumeCreate(name="w", size_bytes=SMALL))
        store = faults.disk.rules(node.node.volumes.get("v").record.id, FaultRule("flush", "hold"))
        growing = asyncio.create_task(node.do("volume.grow", GROW))
        await eventually(lambda: store.held or None)
        pair = LOCAL_PAIR.model_copy(update={"p_volume": "v", "s_volume": "w"})
        error = await refused(node, "pair.create", pair)
        assert error.code is Code.IN_USE
        assert "is growing" in error.message
        error = await refused(node, "volume.delete", m.VolumeDelete(name="v"))
        assert error.code is Code.IN_USE
        store.release()
        assert (await growing).verdict is Verdict.ACCEPTED
        assert (await refused(node, "pair.create", pair)).code is Code.BAD_REQUEST
    finally:
        await node.stop()
