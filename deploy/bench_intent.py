"""What a cold extent costs: random writes over a large mirrored volume, and inside one extent.

Owns the load and its rates. Two real controllers, each in its own process, linked by TCP over
loopback, with volumes and state on the same real disk; the load calls `Volume.write` of the
primary, so that neither a front end nor an initiator hides what the log costs. A child process
(`python -m deploy.bench_intent DIRECTORY EXTENT_BYTES HOT_EXTENTS`) is the secondary; it ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from controller.api import messages as m
from controller.link.transport import Peer
from controller.service.config import IntentConfig
from controller.volume.metadata import metadata_file
from controller.volume.superblock import Identity, IntentSettings, read_image
from controller.volume.volume import Volume
from deploy.pair import PairError
from targets.lun import LunError
from tests.rig import Running, eventually, remote_pair, start_node

VOLUME_BYTES = 16 << 30
BLOCK_BYTES = 4096
WARM_UP_S = 2.0
ROUND_S = 3.0
ROUNDS = 3
DATA = memoryview(os.urandom(1 << 20))

TABLE = (
    (64 << 10, 16384),
    (256 << 10, 4096),
    (1 << 20, 1024),
    (4 << 20, 256),
    (4 << 20, 1000),
    (16 << 20, 64),
    (64 << 20, 16),
)
"""Extent bytes and hot extents, most of them for 1 GiB hot."""


@dataclass
class Load:
    """A host that keeps `depth` random writes of 4 KiB under way, below `span_bytes`."""

    volume: Volume
    span_bytes: int
    depth: int
    fua: bool
    rng: random.Random

    async def rate(self, seconds: float) -> float:
        """Writes a second; the clock runs until the last one is answered."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        state = {"done": 0, "under_way": self.depth}

        def answered(error: LunError | None) -> None:
            state["done"] += 1
            if error is not None and not over.done():
                over.set_exception(error)
            elif time.perf_counter() - began_s < seconds:
                loop.call_soon(submit)
            else:
                state["under_way"] -= 1
                if not state["under_way"] and not over.done():
                    over.set_result(None)

        def submit() -> None:
            block = self.rng.randrange(self.span_bytes // BLOCK_BYTES)
            at = self.rng.randrange(len(DATA) // 512 - 8) * 512
            data = DATA[at : at + BLOCK_BYTES]
            self.volume.write(block * BLOCK_BYTES, data, self.fua, answered)

        loop = asyncio.get_running_loop()
        for _ in range(self.depth):
            loop.call_soon(submit)
        await over
        return state["done"] / (time.perf_counter() - began_s)


async def in_one_run(
    volume: Volume, settings: IntentSettings, depth: int, *, fua: bool
) -> dict[str, float]:
    """Both loads in turn, several times; medians and their ratio."""
    rng = random.Random(depth)  # noqa: S311  (a load, no secret)
    inside = Load(volume, settings.extent_bytes, depth, fua, rng)
    spread = Load(volume, VOLUME_BYTES, depth, fua, rng)
    rates: tuple[list[float], list[float]] = ([], [])
    await spread.rate(WARM_UP_S)
    for _ in range(ROUNDS):
        for load, found in zip((inside, spread), rates, strict=True):
            await load.rate(0.3)
            found.append(await load.rate(ROUND_S))
    one, all_over = (statistics.median(found) for found in rates)
    return {"one_extent": one, "spread": all_over, "ratio": all_over / one}


def bytes_to_compare(primary: Running) -> int:
    """What a crash now would leave to be compared, by the log on disk."""
    record = primary.node.volumes.get("first").record
    raw = (primary.directory / "meta" / metadata_file(record.id)).read_bytes()
    identity = Identity(bytes.fromhex(record.id), record.size_bytes, record.metadata_generation)
    found = read_image(raw, identity)
    return VOLUME_BYTES if found is None else len(found.extents) * found.extent_bytes


def with_pair(
    directory: Path, settings: IntentSettings, measure: Callable[[Running], Awaitable[None]]
) -> None:
    """Run `measure` on a primary whose remote pair is in PAIR."""
    child = subprocess.Popen(
        [sys.executable, "-m", "deploy.bench_intent", str(directory / "b"),
         str(settings.extent_bytes), str(settings.hot_extents)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise PairError("the secondary did not start")
        asyncio.run(_primary(directory / "a", int(line), settings, measure))
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()


async def _primary(
    directory: Path,
    port: int,
    settings: IntentSettings,
    measure: Callable[[Running], Awaitable[None]],
) -> None:
    primary = await start_node(directory, "a", [Peer("b", "127.0.0.1", port)], intent=settings)
    try:
        await primary.do("volume.create", m.VolumeCreate(name="first", size_bytes=VOLUME_BYTES))
        await eventually(lambda: primary.node.links.connected("b"))
        await primary.do("pair.create", remote_pair())
        await primary.until("remote", m.PairState.PAIR)
        await measure(primary)
    finally:
        await primary.stop()


def measure_intent(directory: Path) -> dict[str, dict[str, float]]:
    """The default at depth 1 and 32, plain and FUA; then the table of settings at depth 32."""
    config = IntentConfig()
    default = IntentSettings(config.extent_bytes, config.hot_extents)
    results: dict[str, dict[str, float]] = {}

    async def default_settings(primary: Running) -> None:
        volume = primary.volume("first")
        for fua in (False, True):
            for depth in (1, 32):
                name = f"4k{' FUA' if fua else ''}, depth {depth}"
                results[name] = await in_one_run(volume, default, depth, fua=fua)

    with_pair(directory / "default", default, default_settings)
    for number, (extent_bytes, hot_extents) in enumerate(TABLE):
        settings = IntentSettings(extent_bytes, hot_extents)

        async def one_setting(primary: Running, settings: IntentSettings = settings) -> None:
            found = await in_one_run(primary.volume("first"), settings, 32, fua=False)
            found["compare_mib"] = bytes_to_compare(primary) / (1 << 20)
            results[f"{settings.extent_bytes >> 10} KiB x {settings.hot_extents}"] = found

        with_pair(directory / str(number), settings, one_setting)
    return results


async def secondary(directory: Path, settings: IntentSettings) -> None:
    """Serve the S-VOL until standard input ends."""
    node = await start_node(directory, "b", [Peer("a", "127.0.0.1", 1)], intent=settings)
    await node.do("volume.create", m.VolumeCreate(name="second", size_bytes=VOLUME_BYTES))
    print(node.node.link_port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await node.stop()


if __name__ == "__main__":
    asyncio.run(secondary(Path(sys.argv[1]), IntentSettings(int(sys.argv[2]), int(sys.argv[3]))))
