"""Controllers for tests: real nodes with real files and TCP on loopback, without a broker.

Owns starting and stopping them, and a stand-in for the front end that lets a test be the host.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from controller.api import messages as m
from controller.api.topics import StateKind
from controller.api.verbs import VERBS
from controller.exports import Exporter
from controller.link.tcp import TcpNetwork
from controller.link.transport import Network, Peer
from controller.node import LoopClock, Node, NodeSettings, Surroundings
from controller.outcome import Outcome
from controller.volume.file import DirectoryDisk
from controller.volume.offload import ThreadOffload
from controller.volume.store import Disk
from controller.volume.superblock import IntentSettings
from controller.volume.volume import Volume
from targets.lun import LunError, UnitAttention
from tests.plug import CrashDisk, Plug

_T = TypeVar("_T")


@dataclass
class StandInExporter:
    """Offers volumes to the test instead of to initiators."""

    offered: dict[str, Volume] = field(default_factory=dict)
    logged_in: dict[str, list[m.SessionInfo]] = field(default_factory=dict)
    attentions: list[tuple[str, UnitAttention]] = field(default_factory=list)
    allowed: dict[str, list[str]] = field(default_factory=dict)
    """The list of each target that was offered."""

    @property
    def portals(self) -> list[str]:
        return ["127.0.0.1:0"]

    def offer(self, iqn: str, volume: Volume, initiators: Sequence[str]) -> None:
        self.offered[iqn] = volume
        self.allowed[iqn] = list(initiators)

    async def ready(self, iqn: str) -> None:
        assert iqn in self.offered

    async def withdraw(self, iqn: str, *, force: bool) -> None:
        del force
        self.offered.pop(iqn, None)

    async def withdraw_all(self) -> None:
        self.offered.clear()

    def trouble(self, iqn: str) -> str:
        return ""

    def sessions(self, iqn: str) -> list[m.SessionInfo]:
        return self.logged_in.get(iqn, [])

    def cut_off_by(self, iqn: str, initiators: Sequence[str]) -> list[m.SessionInfo]:
        return [
            each for each in self.sessions(iqn) if initiators and each.initiator not in initiators
        ]

    async def allow(self, iqn: str, initiators: Sequence[str]) -> None:
        ending = self.cut_off_by(iqn, initiators)
        self.logged_in[iqn] = [each for each in self.sessions(iqn) if each not in ending]
        self.allowed[iqn] = list(initiators)

    def grown(self, iqn: str) -> None:
        self.attention(iqn, UnitAttention.CAPACITY_CHANGED)

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        self.attentions.append((iqn, attention))


class Published:
    """Remembers the last state of everything."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], m.VolumeInfo | m.PairInfo | None] = {}
        self.detail = ""

    def publish_state(
        self, kind: StateKind, name: str, info: m.VolumeInfo | m.PairInfo | None
    ) -> None:
        self.states[kind, name] = info

    def publish_status(self, peers: dict[str, bool], detail: str) -> None:
        del peers
        self.detail = detail


@dataclass
class Running:
    """A started node and what surrounds it."""

    node: Node
    directory: Path
    exporter: StandInExporter
    published: Published
    offload: ThreadOffload
    plug: Plug | None = None

    async def do(self, verb: str, params: m.Params) -> Outcome:
        outcome = await self.node.commands.carry_out(verb, params)
        if outcome.result is not None:
            assert isinstance(outcome.result, VERBS[verb].result)
        return outcome

    def volume(self, name: str) -> Volume:
        return self.node.volumes.get(name).volume

    def image(self, name: str) -> bytes:
        record = self.node.volumes.get(name).record
        return (self.directory / "data" / f"{record.id}.volume").read_bytes()

    def pair(self, name: str) -> m.PairInfo:
        return self.node.pair_info(name)

    async def until(self, name: str, *states: m.PairState) -> m.PairInfo:
        return await eventually(
            lambda: info if (info := self.pair(name)).state in states else None,
            lambda: f"{name} on {self.node.name}: {self.pair(name)}",
        )

    def logged_in(self, name: str, *initiators: str) -> None:
        """Pretend that these initiators, and no others, are logged in to a volume."""
        iqn = self.node.volumes.get(name).iqn
        self.exporter.logged_in[iqn] = [
            m.SessionInfo(initiator=each, address="127.0.0.1:1", since_s=0.0) for each in initiators
        ]

    def cut_link(self) -> None:
        """Break every connection, as a cable does: what is on the way is gone."""
        for connection in list(self.node.links._live.values()):
            assert connection._transport is not None
            connection._transport.abort()

    async def stop(self) -> None:
        await self.node.stop()
        self.offload.close()

    async def crash(self, chance: random.Random | None = None) -> None:
        """Pull the plug. Without `chance` everything that was written is kept."""
        assert self.plug is not None, "start it with crashes=True"
        self.plug.pull()
        node = self.node
        node.stopping = True
        if node._cancel_progress is not None:
            node._cancel_progress()
        tasks = [owner._task for owner in node.pairs.owners() if owner._task is not None]
        tasks += [*node.links._dialers, *node.calls._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        node.links.closing = True
        for connection in list(node.links.connections):
            if connection._transport is not None:
                connection._transport.abort()
        await node.links._network.close()
        await asyncio.to_thread(self.offload.close)
        if chance is not None:
            self.plug.leave_crash_images(chance)
        self.plug.let_go()


async def eventually(
    probe: Callable[[], _T | None], describe: Callable[[], str] = lambda: "", within_s: float = 30
) -> _T:
    """Wait until `probe` gives something other than None or False."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while True:
        found = probe()
        if found is not None and found is not False:
            return found
        if loop.time() > deadline_s:
            raise AssertionError(f"did not happen within {within_s} s: {describe()}")
        await asyncio.sleep(0.005)


async def start_node(
    directory: Path,
    name: str,
    peers: list[Peer],
    *,
    port: int = 0,
    wrap: Callable[[Disk], Disk] = lambda disk: disk,
    intent: IntentSettings | None = None,
    crashes: bool = False,
    boot_id: str = "one boot",
    front_end: Exporter | None = None,
    network: Network | None = None,
) -> Running:
    """Start a node over the files in `directory`; they may be those of an earlier run."""
    offload = ThreadOffload(asyncio.get_running_loop())
    exporter, published = StandInExporter(), Published()
    disk: Disk = DirectoryDisk(directory / "data", offload.lane)
    meta_disk: Disk = DirectoryDisk(directory / "meta", offload.lane)
    plug = Plug() if crashes else None
    if plug is not None:
        disk = CrashDisk(disk, directory / "data", plug)
        meta_disk = CrashDisk(meta_disk, directory / "meta", plug)
    world = Surroundings(
        disk=wrap(disk),
        meta_disk=meta_disk,
        network=network or TcpNetwork(),
        exporter=front_end or exporter,
        clock=LoopClock(),
        new_id=lambda: uuid.uuid4().hex,
        boot_id=boot_id,
    )
    settings = NodeSettings(
        node=name,
        link_host="127.0.0.1",
        link_port=port,
        peers=peers,
        intent=intent or IntentSettings(extent_bytes=64 << 10, hot_extents=16),
    )
    node = Node(settings, world, published)
    await node.start()
    return Running(node, directory, exporter, published, offload, plug)


@asynccontextmanager
async def two_nodes(
    directory: Path, *, wrap_b: Callable[[Disk], Disk] = lambda disk: disk
) -> AsyncIterator[tuple[Running, Running]]:
    """A primary 'a' and a secondary 'b', linked. 'a' dials."""
    b = await start_node(directory / "b", "b", [Peer("a", "127.0.0.1", 1)], wrap=wrap_b)
    a = await start_node(directory / "a", "a", [Peer("b", "127.0.0.1", b.node.link_port)])
    try:
        await eventually(lambda: a.node.links.connected("b") and b.node.links.connected("a"))
        yield a, b
    finally:
        await a.stop()
        await b.stop()


async def write(volume: Volume, offset_bytes: int, data: bytes, *, fua: bool = False) -> None:
    """Be a host: write, and wait for the answer; LunError when it is refused."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    volume.write(offset_bytes, memoryview(data), fua, _resolve(future))
    await future


async def discard(volume: Volume, offset_bytes: int, length_bytes: int) -> None:
    """Be a host: unmap."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    volume.discard(offset_bytes, length_bytes, _resolve(future))
    await future


async def read(volume: Volume, offset_bytes: int, length_bytes: int) -> bytes:
    """Be a host: read."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    into = memoryview(bytearray(length_bytes))
    volume.read(offset_bytes, into, _resolve(future))
    await future
    return bytes(into)


async def flush(volume: Volume) -> None:
    """Be a host: SYNCHRONIZE CACHE."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    volume.flush(_resolve(future))
    await future


def _resolve(future: asyncio.Future[None]) -> Callable[[LunError | None], None]:
    def done(error: LunError | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    return done


async def chain(a: Running, b: Running, size_bytes: int = 1 << 20, **remote: object) -> None:
    """first on a, second and third on b, all in sync; `remote` are fields of PairCreate."""
    await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=size_bytes))
    for name in ("second", "third"):
        await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=size_bytes))
    await a.do("pair.create", remote_pair(**remote))
    await a.until("remote", m.PairState.PAIR)
    await b.until("remote", m.PairState.PAIR)
    await b.do("pair.create", LOCAL_PAIR)
    await b.until("local", m.PairState.PAIR)


LOCAL_PAIR = m.PairCreate(name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third")


def remote_pair(**more: object) -> m.PairCreate:
    """The remote pair of the chain, with other fields where they are given."""
    fields: dict[str, object] = {
        "name": "remote",
        "kind": m.PairKind.REMOTE,
        "p_volume": "first",
        "s_volume": "second",
        "peer": "b",
    }
    return m.PairCreate.model_validate(fields | more)


async def linked(a: Running, b: Running) -> None:
    """Wait until both know that the link is up."""
    await eventually(lambda: a.node.links.connected("b") and b.node.links.connected("a"))


async def unlinked(a: Running, b: Running) -> None:
    """Cut the link and keep it cut, until `relink`; both know when this returns."""
    for task in a.node.links._dialers:
        task.cancel()
    await asyncio.gather(*a.node.links._dialers, return_exceptions=True)
    a.node.links._dialers.clear()
    a.cut_link()
    b.cut_link()
    await eventually(lambda: not a.node.links.connected("b") and not b.node.links.connected("a"))


async def relink(a: Running, b: Running) -> None:
    """Let 'a' dial again and wait for the link."""
    for peer in a.node.links.peers.values():
        task = asyncio.create_task(a.node.links._keep_dialing(peer))
        a.node.links._dialers.append(task)
    await linked(a, b)
