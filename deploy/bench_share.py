"""What each of two primaries gets of a secondary that both copy to at once.

Owns the load: one primary brings four pairs in sync, the other one pair. Three processes, linked by
TCP over loopback, files in one directory. What is told is the single pair's share of all that was
copied before its end: a half is fair between primaries, a fifth between pairs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from controller.api import messages as m
from controller.link.transport import Peer
from controller.volume.superblock import IntentSettings
from controller.volume.volume import Volume
from deploy.bench_intent import DATA
from tests.rig import Running, eventually, start_node, write

PAIRS = {"a-many": 4, "a-one": 1}
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
        await _in_sync(node, name)
        orders.send("in sync")
        await asyncio.to_thread(orders.recv)
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


async def _fill(volume: Volume) -> None:
    for at in range(0, VOLUME_BYTES, len(DATA)):
        await write(volume, at, bytes(DATA))


def _run_primary(name: str, port: int, directory: Path, orders: Connection) -> None:
    asyncio.run(_primary(name, port, directory, orders))


async def _measure(directory: Path) -> dict[str, float]:
    peers = [Peer(name, "127.0.0.1", 1) for name in PAIRS]
    b = await start_node(directory / "b", "b", peers, intent=INTENT)
    spawn = multiprocessing.get_context("spawn")
    orders: dict[str, Connection] = {}
    children = []
    try:
        for name, count in PAIRS.items():
            for number in range(count):
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
        for pipe in orders.values():
            pipe.send("copy")
        await asyncio.to_thread(orders["a-one"].recv)
        many = [_copied_bytes(b, f"a-many{number}") for number in range(PAIRS["a-many"])]
        await asyncio.to_thread(orders["a-many"].recv)
    finally:
        for pipe in orders.values():
            pipe.send("end")
        for child in children:
            await asyncio.to_thread(child.join)
        await b.stop()
    return {"share of one pair beside four": VOLUME_BYTES / (VOLUME_BYTES + sum(many))}


def _copied_bytes(node: Running, pair: str) -> int:
    info = node.pair(pair)
    if info.state is m.PairState.PAIR:
        return VOLUME_BYTES
    return info.progress.done_bytes if info.progress is not None else 0


def measure_share(directory: Path) -> dict[str, float]:
    """Two primaries at one secondary."""
    return asyncio.run(_measure(directory))
