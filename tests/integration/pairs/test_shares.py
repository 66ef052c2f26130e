"""What each of several primaries gets of one secondary: as much as another, whatever its pairs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from controller.api import messages as m
from controller.link.transport import TURN_BYTES, Network, Peer
from controller.pair import copier
from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.store import BlockStore, Disk, StoreDone
from controller.volume.superblock import IntentSettings
from targets.lun import LunError
from tests.integration.pairs.faults import Faults, FaultyDisk
from tests.rig import Running, eventually, start_node, write
from tests.wire import End, Wires

SIZE = 12 << 20
BATCH = 1 << 20
PAIRS = {"a-many": 4, "a-one": 1}
INTENT = IntentSettings(256 << 10, 4096)
"""As it is by default: no settling comes between."""


class SlowDisk(FaultyDisk):
    """Flushes of all volumes queue for one disk, which does one when it is told to."""

    def __init__(self, inner: Disk) -> None:
        super().__init__(inner)
        self.queue: deque[tuple[BlockStore, StoreDone]] = deque()
        self.held = False

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> BlockStore:
        store = super().open(name, size_bytes, create=create, **how)
        self.stores[name] = SlowStore(self, store)
        return self.stores[name]

    def serve(self) -> None:
        """Do the flush that has waited longest."""
        store, done = self.queue.popleft()
        store.flush(done)


class SlowStore(FaultyStore):
    """One volume on it."""

    def __init__(self, disk: SlowDisk, inner: BlockStore) -> None:
        super().__init__(inner)
        self._disk = disk

    def flush(self, done: StoreDone) -> None:
        if self._disk.held:
            self._disk.queue.append((self._inner, done))
        else:
            self._inner.flush(done)


class Sites:
    """A secondary 'b', primaries 'a-many' and 'a-one', and the pairs that are to be copied."""

    def __init__(
        self,
        b: Running,
        disk: SlowDisk,
        primaries: dict[str, Running],
        sources: dict[str, Faults],
    ) -> None:
        self.b = b
        self.disk = disk
        self.primaries = primaries
        self.sources = sources

    async def ready(self, *names: str) -> Callable[[], None]:
        """Bring pairs as far as the first block; gives what begins to copy them in one step."""
        held: list[FaultyStore] = []
        for name in names or PAIRS:
            for number in range(PAIRS[name]):
                first = self.primaries[name].node.volumes.get(f"first{number}").record.id
                held.append(self.sources[name].disk.rules(first, FaultRule("read", "hold")))
                asked = m.PairCreate(
                    name=f"{name}{number}",
                    kind=m.PairKind.REMOTE,
                    p_volume=f"first{number}",
                    s_volume=f"{name}{number}",
                    peer="b",
                )
                await self.primaries[name].do("pair.create", asked)
        await eventually(lambda: all(store.held for store in held))

        def begin() -> None:
            for store in held:
                store.release()

        return begin

    async def copy(self) -> None:
        """Begin to copy all volumes."""
        begin = await self.ready()
        begin()

    def pairs(self, name: str) -> list[m.PairInfo]:
        return [self.primaries[name].pair(f"{name}{number}") for number in range(PAIRS[name])]

    def copied_bytes(self, *names: str) -> int:
        """What both sides have durably."""
        return sum(SIZE - info.dirty_bytes for name in names for info in self.pairs(name))

    def wire(self, name: str) -> End:
        """The secondary's end of a primary's connection."""
        (found,) = [each for each in self.b.node.links.connections if each.peer == name]
        return cast("End", found._transport)

    def in_sync(self, name: str) -> bool:
        return all(info.state is m.PairState.PAIR for info in self.pairs(name))

    def nothing_but_flushes(self) -> bool:
        """Whether every pair is in sync, or can't go on before the secondary has flushed."""
        return all(
            self._waits_for_flush(primary, f"{name}{number}")
            for name, primary in self.primaries.items()
            for number in range(PAIRS[name])
        )

    def _waits_for_flush(self, primary: Running, pair: str) -> bool:
        if primary.pair(pair).state is m.PairState.PAIR:
            return True
        running = primary.node.pairs.get(pair).side.copier
        if running is None or running._flushes_left != 1 or running._in_flight_bytes:
            return False
        at_end = running._bitmap.next_run(running._cursor, 1) is None
        return at_end or running._batch_bytes >= BATCH


@asynccontextmanager
async def collection(directory: Path, network: Network | None = None) -> AsyncIterator[Sites]:
    disks: list[SlowDisk] = []

    def slow(disk: Disk) -> Disk:
        disks.append(SlowDisk(disk))
        return disks[0]

    peers = [Peer(name, "127.0.0.1", 1) for name in PAIRS]
    b = await start_node(directory / "b", "b", peers, wrap=slow, intent=INTENT, network=network)
    nodes: dict[str, Running] = {}
    sources = {name: Faults() for name in PAIRS}
    try:
        to_b = [Peer("b", "127.0.0.1", b.node.link_port)]
        for name, pairs in PAIRS.items():
            nodes[name] = await start_node(
                directory / name,
                name,
                to_b,
                wrap=sources[name].wrap,
                intent=INTENT,
                network=network,
            )
            for number in range(pairs):
                first = m.VolumeCreate(name=f"first{number}", size_bytes=SIZE)
                await nodes[name].do("volume.create", first)
                for at in range(0, SIZE, 1 << 20):
                    await write(nodes[name].volume(f"first{number}"), at, b"d" * (1 << 20))
                second = m.VolumeCreate(name=f"{name}{number}", size_bytes=SIZE)
                await b.do("volume.create", second)
        await eventually(lambda: all(b.node.links.connected(name) for name in PAIRS))
        yield Sites(b, disks[0], nodes, sources)
    finally:
        disks[0].held = False
        while disks[0].queue:
            disks[0].serve()
        for node in [*nodes.values(), b]:
            await node.stop()


async def test_a_slow_disk_is_shared_by_primaries_not_by_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier, "BATCH_BYTES", BATCH)
    async with collection(tmp_path) as sites:
        sites.disk.held = True
        await sites.copy()
        await eventually(sites.nothing_but_flushes)
        while not sites.in_sync("a-one"):
            before = sites.copied_bytes(*PAIRS)
            sites.disk.serve()
            await eventually(lambda before=before: sites.copied_bytes(*PAIRS) > before)  # type: ignore[misc]
            await eventually(sites.nothing_but_flushes)
        one, many = sites.copied_bytes("a-one"), sites.copied_bytes("a-many")
        assert 0.45 < one / (one + many) < 0.55


async def test_the_loop_takes_as_much_from_one_primary_as_from_another(tmp_path: Path) -> None:
    async with collection(tmp_path, Wires()) as sites:
        begin = await sites.ready()
        wires = [sites.wire(name) for name in ("a-one", "a-many")]
        before = [wire.received_bytes for wire in wires]
        taken: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        def took() -> None:
            parts = [wire.received_bytes - had for wire, had in zip(wires, before, strict=True)]
            if parts[0] >= SIZE and not taken.done():
                taken.set_result(parts)

        wires[0].took = took
        begin()
        one, many = await taken
        assert 0.45 < one / (one + many) < 0.55


async def test_a_hosts_write_waits_for_a_turn_of_anothers_copy_not_for_a_window(
    tmp_path: Path,
) -> None:
    async with collection(tmp_path, Wires()) as sites:
        (await sites.ready("a-one"))()
        await sites.primaries["a-one"].until("a-one0", m.PairState.PAIR)
        await sites.b.until("a-one0", m.PairState.PAIR)
        volume = sites.primaries["a-one"].volume("first0")
        await write(volume, 0, b"hot" * 1000)
        begin, wire = await sites.ready("a-many"), sites.wire("a-many")
        waited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def took() -> None:
            wire.took = lambda: None
            before = wire.received_bytes

            def answered(error: LunError | None) -> None:
                assert error is None
                waited.set_result(wire.received_bytes - before)

            volume.write(0, memoryview(b"w" * 4096), False, answered)

        wire.took = took
        begin()
        assert 0 < await waited <= 4 * TURN_BYTES
        assert not sites.in_sync("a-many")


async def test_a_flush_whose_pair_ends_while_it_waits_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier, "BATCH_BYTES", BATCH)
    async with collection(tmp_path) as sites:
        sites.disk.held = True
        await sites.copy()
        await eventually(sites.nothing_but_flushes)
        many, b = sites.primaries["a-many"], sites.b
        last = f"a-many{PAIRS['a-many'] - 1}"
        gone = b.volume(last)
        await many.do("pair.delete", m.PairDelete(name=last))
        await eventually(lambda: b.node.pairs.find(last) is None)
        await b.do("volume.delete", m.VolumeDelete(name=last))
        sites.disk.held = False
        while sites.disk.queue:
            sites.disk.serve()
        await sites.primaries["a-one"].until("a-one0", m.PairState.PAIR)
        for number in range(PAIRS["a-many"] - 1):
            await many.until(f"a-many{number}", m.PairState.PAIR)
        assert gone.state.healthy, "it was not asked for a flush behind its end"
