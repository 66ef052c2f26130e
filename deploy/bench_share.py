"""What each of two primaries gets of a secondary that both copy to at once.

Owns the load: one primary brings four pairs in sync, the other one pair; each alone, then both at
once. Three processes, linked by TCP over loopback, files in one directory. What is told is the
single pair's share of all that is durable by the time it is in sync (a half is fair between
primaries, a fifth between pairs), and how fast one primary copies, the other, and both.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from controller.api import messages as m
from controller.link.transport import Peer
from controller.volume.superblock import IntentSettings
from controller.volume.volume import Volume
from deploy.bench_intent import DATA
from tests.rig import Running, eventually, start_node, write

PAIRS = {"a-many": 4, "a-one": 1}
RUNS = {"one pair": ["a-one"], "four pairs": ["a-many"], "together": ["a-many", "a-one"]}
VOLUME_BYTES = 256 << 20
WITHIN_S = 600.0
INTENT = IntentSettings(256 << 10, 4096)
"""As it is by default."""


async def _primary(name: str, port: int, directory: Path, orders: Connection) -> None:
    node = await start_node(directory / name, name, [Peer("b", "127.0.0.1", port)], intent=INTENT)
    try:
        await eventually(lambda: node.node.links.connected("b"), within_s=WITHIN_S)
        for number in range(PAIRS[name]):
            params = m.VolumeCreate(name=f"first{number}", size_bytes=VOLUME_BYTES)
            await node.do("volume.create", params)
            await _fill(node.volume(f"first{number}"))
        orders.send("ready")
        await asyncio.to_thread(orders.recv)
        copying = asyncio.create_task(_in_sync(node, name))
        while (asked := await asyncio.to_thread(orders.recv)) != "end":
            if asked == "all":
                await copying
            orders.send(_copied_bytes(node, name))
    finally:
        await node.stop()


async def _in_sync(node: Running, name: str) -> None:
    """Make the pairs, and wait until everything is copied."""
    pairs = [f"{name}{number}" for number in range(PAIRS[name])]
    for number, pair in enumerate(pairs):
        params = m.PairCreate(
            name=pair, kind=m.PairKind.REMOTE, p_volume=f"first{number}", s_volume=pair, peer="b"
        )
        await node.do("pair.create", params)
    for pair in pairs:
        await eventually(
            lambda pair=pair: node.pair(pair).state is m.PairState.PAIR,  # type: ignore[misc]
            within_s=WITHIN_S,
        )


def _copied_bytes(node: Running, name: str) -> int:
    """What is durable on both sides."""
    pairs = [f"{name}{number}" for number in range(PAIRS[name])]
    there = [pair for pair in pairs if node.node.pairs.find(pair) is not None]
    return sum(VOLUME_BYTES - node.pair(pair).dirty_bytes for pair in there)


async def _fill(volume: Volume) -> None:
    for at in range(0, VOLUME_BYTES, len(DATA)):
        await write(volume, at, bytes(DATA))


def _run_primary(name: str, port: int, directory: Path, orders: Connection) -> None:
    asyncio.run(_primary(name, port, directory, orders))


@dataclass(frozen=True)
class Run:
    """What one run has shown."""

    share: float
    """What the last primary had of all that was durable when it was in sync."""
    mib_per_s: float
    """Of all primaries, until everything is in sync."""


async def _measure(directory: Path, primaries: list[str]) -> Run:
    """These primaries copy to one secondary, at once."""
    peers = [Peer(name, "127.0.0.1", 1) for name in primaries]
    b = await start_node(directory / "b", "b", peers, intent=INTENT)
    spawn = multiprocessing.get_context("spawn")
    orders: dict[str, Connection] = {}
    children = []
    try:
        for name in primaries:
            for number in range(PAIRS[name]):
                params = m.VolumeCreate(name=f"{name}{number}", size_bytes=VOLUME_BYTES)
                await b.do("volume.create", params)
            orders[name], theirs = spawn.Pipe()
            child = spawn.Process(
                target=_run_primary, args=(name, b.node.link_port, directory, theirs)
            )
            child.start()
            children.append(child)
        for pipe in orders.values():
            await asyncio.to_thread(pipe.recv)
        began_s = time.perf_counter()
        for pipe in orders.values():
            pipe.send("copy")
        single = await _ask(orders[primaries[-1]], "all")
        so_far = [await _ask(pipe, "so far") for pipe in orders.values()]
        all_of_it = [await _ask(pipe, "all") for pipe in orders.values()]
        took_s = time.perf_counter() - began_s
    finally:
        for pipe in orders.values():
            pipe.send("end")
        for child in children:
            await asyncio.to_thread(child.join)
        await b.stop()
    return Run(share=single / sum(so_far), mib_per_s=sum(all_of_it) / took_s / (1 << 20))


async def _ask(pipe: Connection, what: str) -> int:
    """Bytes that a primary has copied: so far, or all when it has."""
    pipe.send(what)
    copied_bytes: int = await asyncio.to_thread(pipe.recv)
    return copied_bytes


def measure_share(directory: Path) -> dict[str, float]:
    """Two primaries at one secondary, alone and together."""
    runs = {}
    for name, primaries in RUNS.items():
        (directory / name).mkdir()
        runs[name] = asyncio.run(_measure(directory / name, primaries))
        shutil.rmtree(directory / name)
    found = {"share of one pair beside four": runs["together"].share}
    return found | {f"{name}, MiB/s": run.mib_per_s for name, run in runs.items()}
