"""One secondary serves several primaries, each with a third volume of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.link.transport import Peer
from controller.volume.faulty import FaultRule
from tests.integration.pairs.faults import Faults
from tests.rig import Running, eventually, start_node, write

S = m.PairState
BLOCK = 4096
SIZE = 8 << 20
PRIMARIES = ("a1", "a2")


class Sites:
    """Primaries 'a1' and 'a2', and 'b' with a second and a third volume for each."""

    def __init__(self, nodes: dict[str, Running], faults: Faults) -> None:
        self.nodes = nodes
        self.faults = faults

    def __getitem__(self, name: str) -> Running:
        return self.nodes[name]

    async def fill(self, name: str, data: bytes) -> None:
        """A host's writes, over the whole of a first volume."""
        for at in range(0, SIZE, 1 << 20):
            await write(self[name].volume("first"), at, data * (1 << 20))

    async def in_sync(self, name: str) -> None:
        await self[name].until(f"remote-{name}", S.PAIR)
        await self["b"].until(f"remote-{name}", S.PAIR)
        assert self[name].image("first") == self["b"].image(f"second-{name}")

    async def backup(self, name: str) -> None:
        local = f"local-{name}"
        if self["b"].pair(local).state is not S.PAIR:
            await self["b"].do("pair.resync", m.PairResync(name=local))
            await self["b"].until(local, S.PAIR)
        mark = m.BackupMark(remote_pair=f"remote-{name}", local_pair=local)
        await self[name].do("backup.mark", mark)


@asynccontextmanager
async def collection(directory: Path) -> AsyncIterator[Sites]:
    faults = Faults()
    peers = [Peer(name, "127.0.0.1", 1) for name in PRIMARIES]
    nodes = {"b": await start_node(directory / "b", "b", peers, wrap=faults.wrap)}
    try:
        to_b = [Peer("b", "127.0.0.1", nodes["b"].node.link_port)]
        for name in PRIMARIES:
            nodes[name] = await start_node(directory / name, name, to_b)
        sites = Sites(nodes, faults)
        b = nodes["b"]
        await eventually(lambda: all(b.node.links.connected(name) for name in PRIMARIES))
        for name in PRIMARIES:
            await nodes[name].do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
            for volume in (f"second-{name}", f"third-{name}"):
                await b.do("volume.create", m.VolumeCreate(name=volume, size_bytes=SIZE))
            remote = m.PairCreate(
                name=f"remote-{name}",
                kind=m.PairKind.REMOTE,
                p_volume="first",
                s_volume=f"second-{name}",
                peer="b",
            )
            await nodes[name].do("pair.create", remote)
            await sites.in_sync(name)
            local = m.PairCreate(
                name=f"local-{name}",
                kind=m.PairKind.LOCAL,
                p_volume=f"second-{name}",
                s_volume=f"third-{name}",
            )
            await b.do("pair.create", local)
            await b.until(f"local-{name}", S.PAIR)
        yield sites
    finally:
        for node in nodes.values():
            await node.stop()


async def test_each_primary_has_its_own_backup_and_way_back(tmp_path: Path) -> None:
    async with collection(tmp_path) as sites:
        for number, name in enumerate(PRIMARIES):
            await sites.fill(name, bytes([number + 1]))
        await asyncio.gather(*(sites.backup(name) for name in PRIMARIES))
        for name in PRIMARIES:
            await write(sites[name].volume("first"), 0, b"x" * BLOCK)
            assert sites["b"].image(f"third-{name}") == (bytes([PRIMARIES.index(name) + 1]) * SIZE)
        await sites["a1"].do("pair.split", m.PairSplit(name="remote-a1"))
        back = m.Direction.REVERSE
        await sites["b"].do("pair.resync", m.PairResync(name="local-a1", direction=back))
        await sites["b"].until("local-a1", S.PAIR)
        await sites["a1"].do("pair.resync", m.PairResync(name="remote-a1", direction=back))
        await sites.in_sync("a1")
        assert sites["a1"].image("first") == b"\1" * SIZE
        assert sites["a2"].image("first")[:BLOCK] == b"x" * BLOCK
        await sites.in_sync("a2")


async def test_resyncs_of_several_primaries_run_side_by_side(tmp_path: Path) -> None:
    """Neither waits for the other's end."""
    async with collection(tmp_path) as sites:
        for name in PRIMARIES:
            await sites[name].do("pair.split", m.PairSplit(name=f"remote-{name}"))
            await sites.fill(name, b"r")
        slow = m.PairResync(name="remote-a1", rate_limit_bytes_per_s=1 << 20)
        await sites["a1"].do("pair.resync", slow)
        await sites["a2"].do("pair.resync", m.PairResync(name="remote-a2"))
        await sites.in_sync("a2")
        assert sites["a1"].pair("remote-a1").state is S.COPY


async def test_one_primarys_trouble_is_not_anothers(tmp_path: Path) -> None:
    async with collection(tmp_path) as sites:
        b = sites["b"]
        second = b.node.volumes.get("second-a1").record
        sites.faults.disk.rules(second.id, FaultRule("write", "fail"))
        with_error = sites["a1"].volume("first")
        await write(with_error, 0, b"1" * BLOCK)
        await sites["a1"].until("remote-a1", S.PSUE)
        for _ in range(20):
            sites["a1"].cut_link()
            await write(sites["a2"].volume("first"), 0, b"2" * BLOCK)
            assert sites["a2"].pair("remote-a2").state is S.PAIR
            await asyncio.sleep(0)
        await sites.in_sync("a2")
        assert b.image("second-a2") == b.image("third-a2")
        await sites.backup("a2")


@pytest.mark.parametrize("name", PRIMARIES)
async def test_a_primary_that_goes_leaves_the_others_alone(name: str, tmp_path: Path) -> None:
    async with collection(tmp_path) as sites:
        (other,) = set(PRIMARIES) - {name}
        gone = sites.nodes.pop(name)
        await gone.stop()
        await sites["b"].until(f"remote-{name}", S.PSUE)
        await sites.fill(other, b"o")
        await sites.in_sync(other)
        await sites["b"].do("pair.takeover", m.PairTakeover(name=f"remote-{name}"))
        await write(sites["b"].volume(f"second-{name}"), 0, b"t" * BLOCK)
        assert sites["b"].pair(f"remote-{other}").state is S.PAIR
