"""What the split of a consistency group costs hosts: the longest a write waits.

Owns the load and its latencies. Two controllers on one event loop, linked by TCP over loopback,
volumes and state on the same real disk: a write waits for what both sides do for a split. The load
calls `Volume.write` of the primary.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from controller.api import messages as m
from controller.volume.volume import Volume
from deploy.bench_intent import DATA
from deploy.pair import PairError
from targets.lun import LunError
from tests.rig import Running, two_nodes

PAIRS = 8
DEPTH = 4
"""Writes under way on each volume."""
VOLUME_BYTES = 1 << 30
BLOCK_BYTES = 4096
SPLITS = 10
LOAD_S = 1.0


class Load:
    """Random writes of 4 KiB on every volume, each with its latency."""

    def __init__(self, volumes: list[Volume]) -> None:
        self._volumes = volumes
        self._rng = random.Random(8)  # noqa: S311  (a load, no secret)
        self._ended = False
        self._under_way = 0
        self._over = asyncio.Event()
        self.latencies: list[tuple[float, float]] = []
        """When a write was answered, and how long that took; seconds."""

    def start(self) -> None:
        """Begin on all volumes."""
        for volume in self._volumes:
            for _ in range(DEPTH):
                self._under_way += 1
                self._submit(volume)

    def _submit(self, volume: Volume) -> None:
        began_s = time.perf_counter()
        loop = asyncio.get_running_loop()

        def answered(error: LunError | None) -> None:
            now_s = time.perf_counter()
            self.latencies.append((now_s, now_s - began_s))
            if error is not None:
                raise PairError(f"a write failed: {error}")
            if self._ended:
                self._under_way -= 1
                if not self._under_way:
                    self._over.set()
            else:
                loop.call_soon(self._submit, volume)

        at = self._rng.randrange(VOLUME_BYTES // BLOCK_BYTES) * BLOCK_BYTES
        volume.write(at, DATA[:BLOCK_BYTES], False, answered)

    async def end(self) -> None:
        """Let what is under way end."""
        self._ended = True
        await self._over.wait()

    def longest_ms(self, since_s: float, until_s: float) -> float:
        """The longest wait of the writes that were answered in between."""
        found = [took for at, took in self.latencies if since_s <= at <= until_s]
        return max(found, default=0.0) * 1000


async def _pairs(primary: Running, secondary: Running) -> None:
    names = [f"p{number}" for number in range(PAIRS)]
    for number, name in enumerate(names):
        for node, volume in ((primary, f"first{number}"), (secondary, f"second{number}")):
            asked = m.VolumeCreate(name=volume, size_bytes=VOLUME_BYTES)
            await node.do("volume.create", asked)
        pair = m.PairCreate(
            name=name,
            kind=m.PairKind.REMOTE,
            p_volume=f"first{number}",
            s_volume=f"second{number}",
            peer="b",
        )
        await primary.do("pair.create", pair)
    for name in names:
        await primary.until(name, m.PairState.PAIR)
    await primary.do("group.create", m.GroupCreate(name="g", pairs=names))


async def _measure(directory: Path) -> dict[str, float]:
    quiet_ms, split_ms, took_ms = [0.0], [0.0], [0.0]
    async with two_nodes(directory) as (primary, secondary):
        await _pairs(primary, secondary)
        load = Load([primary.volume(f"first{number}") for number in range(PAIRS)])
        load.start()
        for _ in range(SPLITS):
            began_s = time.perf_counter()
            await asyncio.sleep(LOAD_S)
            split_s = time.perf_counter()
            await primary.do("group.split", m.GroupSplit(name="g"))
            ended_s = time.perf_counter()
            # The first write behind a split begins a generation, on the disk.
            await asyncio.sleep(LOAD_S)
            quiet_ms.append(load.longest_ms(began_s, split_s))
            split_ms.append(load.longest_ms(split_s, ended_s + LOAD_S / 2))
            took_ms.append((ended_s - split_s) * 1000)
            await primary.do("group.resync", m.GroupResync(name="g"))
            for number in range(PAIRS):
                await primary.until(f"p{number}", m.PairState.PAIR)
        await load.end()
    return {
        "longest write in PAIR, ms": max(quiet_ms),
        "longest write at a split, ms": max(split_ms),
        "longest split, ms": max(took_ms),
        "writes": float(len(load.latencies)),
    }


def measure_group(directory: Path) -> dict[str, float]:
    """Ten splits of eight pairs."""
    return asyncio.run(_measure(directory))
