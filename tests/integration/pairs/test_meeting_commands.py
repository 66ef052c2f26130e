"""Two commands about one volume that are under way at the same time: one of them is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.errors import RejectedError
from controller.volume.store import BlockStore, StoreError, StoreFault
from tests.rig import (
    LOCAL_PAIR,
    Running,
    read,
    remote_pair,
    start_node,
    two_nodes,
    write,
)

S = m.PairState
BLOCK = 4096
SIZE = 16 * BLOCK


async def volumes(node: Running) -> None:
    for name in ("second", "third"):
        await node.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def refused(task: asyncio.Task[object]) -> bool:
    try:
        await task
    except RejectedError:
        return True
    return False


@pytest.mark.parametrize("first", ["create", "delete"])
@pytest.mark.parametrize("later_turns", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("victim", ["second", "third"])
async def test_a_volume_is_paired_or_deleted(
    first: str, later_turns: int, victim: str, tmp_path: Path
) -> None:
    """A pair without its volume would keep the controller from starting again."""
    node = await start_node(tmp_path, "n", [])
    await volumes(node)
    withdraw = node.exporter.withdraw

    async def slowly(iqn: str, *, force: bool) -> None:
        await turns(4)
        await withdraw(iqn, force=force)

    node.exporter.withdraw = slowly  # type: ignore[method-assign]
    orders = {
        "create": ("pair.create", LOCAL_PAIR),
        "delete": ("volume.delete", m.VolumeDelete(name=victim)),
    }
    second = "delete" if first == "create" else "create"
    tasks: dict[str, asyncio.Task[object]] = {}
    for name in (first, second):
        tasks[name] = asyncio.create_task(node.do(*orders[name]))
        await turns(later_turns)
    outcome = {name: await refused(task) for name, task in tasks.items()}
    assert sorted(outcome.values()) == [False, True]
    await node.stop()
    node = await start_node(tmp_path, "n", [])
    try:
        names = {shelved.record.name for shelved in node.node.volumes.all()}
        if outcome["create"]:
            assert names == {"second", "third"} - {victim}
            assert not node.node.pairs.owners()
        else:
            assert names == {"second", "third"}
            await node.until("local", S.PAIR)
    finally:
        await node.stop()


async def test_no_view_opens_behind_the_back_of_a_copy(tmp_path: Path) -> None:
    """Law L13: the base must not change, also when the copy began while the view had to wait."""
    node = await start_node(tmp_path, "n", [])
    try:
        await volumes(node)
        await node.do("pair.create", LOCAL_PAIR)
        await node.until("local", S.PAIR)
        await node.do("pair.split", m.PairSplit(name="local"))
        async with node.node.volumes._making:
            opening = asyncio.create_task(
                node.do("view.open", m.ViewOpen(volume="third", view="v"))
            )
            await turns(3)
            await node.do("pair.resync", m.PairResync(name="local"))
            await node.until("local", S.PAIR)
        with pytest.raises(RejectedError, match="'third' changes"):
            await opening
        await write(node.volume("second"), 0, b"n" * BLOCK)
        assert node.image("second") == node.image("third")
    finally:
        await node.stop()


async def test_a_volume_becomes_the_s_vol_of_one_pair_only(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    try:
        await volumes(node)
        await node.do("volume.create", m.VolumeCreate(name="other", size_bytes=SIZE))
        pairs = [
            LOCAL_PAIR.model_copy(update={"name": name, "p_volume": name})
            for name in ("second", "other")
        ]
        tasks = [asyncio.create_task(refused_or_not(node, pair)) for pair in pairs]
        assert sorted(await asyncio.gather(*tasks)) == [False, True]
        assert len(node.volume("third").trackers) == 1
    finally:
        await node.stop()


async def refused_or_not(node: Running, pair: m.PairCreate) -> bool:
    try:
        await node.do("pair.create", pair)
    except RejectedError:
        return True
    return False


async def test_half_a_pair_that_finds_no_space_leaves_nothing_behind(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    try:
        await volumes(node)
        await write(node.volume("third"), 0, b"3" * BLOCK)
        disk = node.node.pairs._meta_disk
        real = disk.open

        def full(name: str, size_bytes: int, *, create: bool, **how: bool) -> BlockStore:
            if name.endswith(".p.bitmap"):
                raise StoreError(StoreFault.NO_SPACE, "on purpose")
            return real(name, size_bytes, create=create, **how)

        disk.open = full  # type: ignore[method-assign]
        with pytest.raises(RejectedError, match="no space for the bitmap"):
            await node.do("pair.create", LOCAL_PAIR)
        disk.open = real  # type: ignore[method-assign]
        assert not node.node.pairs.owners()
        assert await read(node.volume("third"), 0, BLOCK) == b"3" * BLOCK
        await node.do("pair.create", LOCAL_PAIR)
        await node.until("local", S.PAIR)
    finally:
        await node.stop()


async def test_a_volume_that_is_copied_back_to_becomes_no_s_vol(tmp_path: Path) -> None:
    """Law L7: what arrives meanwhile would count as written since the new sides parted."""
    size = 1 << 20
    async with two_nodes(tmp_path) as (a, b):
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=size))
        for name in ("second", "third"):
            await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=size))
        await write(a.volume("first"), 0, b"1" * size)
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        await b.do("pair.split", m.PairSplit(name="local", writable=True))
        await write(b.volume("third"), 0, b"3" * size)
        reverse = m.PairResync(
            name="local", direction=m.Direction.REVERSE, rate_limit_bytes_per_s=1 << 20
        )
        await b.do("pair.resync", reverse)
        with pytest.raises(RejectedError, match="copied back to by pair 'local'") as error:
            await a.do("pair.create", remote_pair())
        assert error.value.next_step == "wait for it: trilun pair wait local PAIR"
        assert a.node.pairs.find("remote") is b.node.pairs.find("remote") is None
        left = list((tmp_path / "b" / "meta").glob("*.bitmap"))
        assert len(left) == 2, "the local pair's own two"
        await b.until("local", S.PAIR)
        await a.do("pair.create", remote_pair())
        await a.until("remote", S.PAIR)
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")


@pytest.mark.parametrize("later_turns", [0, 1, 2, 3, 5, 8])
async def test_a_command_that_meets_a_stop_ends_and_later_ones_are_refused(
    later_turns: int, tmp_path: Path
) -> None:
    node = await start_node(tmp_path, "b", [])
    await volumes(node)
    fourth = m.VolumeCreate(name="fourth", size_bytes=SIZE)
    create = asyncio.create_task(node.do("volume.create", fourth))
    await turns(later_turns + 1)
    stop = asyncio.create_task(node.stop())
    await turns(1)
    with pytest.raises(RejectedError, match="is being stopped"):
        await node.do("volume.create", m.VolumeCreate(name="fifth", size_bytes=SIZE))
    await asyncio.gather(stop, create, return_exceptions=True)
    assert stop.exception() is None
