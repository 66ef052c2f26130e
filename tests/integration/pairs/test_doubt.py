"""After a crash only what may differ is compared, and only what differs travels."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from controller.api import messages as m
from tests.integration.pairs.test_restarts import BLOCK, How, Site, site
from tests.rig import flush, write

EXTENT = 64 << 10
HOT_BYTES = 16 * EXTENT


async def busy(both: Site, chance: random.Random) -> int:
    """Write all over the volume, so that the hot set has moved on; returns a hot block."""
    blocks = both.a.volume("first").size_bytes // BLOCK
    block = 0
    for number in range(140):
        block = chance.randrange(blocks)
        await write(both.a.volume("first"), block * BLOCK, chance.randbytes(BLOCK))
        if number == 120:
            await flush(both.a.volume("first"))
    return block


def image_of(both: Site, name: str, volume_id: str) -> Path:
    return both.directory / name / "data" / f"{volume_id}.volume"


def differing_blocks(one: bytes, other: bytes) -> int:
    return sum(one[at : at + BLOCK] != other[at : at + BLOCK] for at in range(0, len(one), BLOCK))


@pytest.mark.parametrize("how", ["killed", "powerless"])
@pytest.mark.parametrize("names", ["a", "b", "ba"])
async def test_only_hot_extents_are_compared_and_only_differences_travel(
    names: str, how: How, tmp_path: Path
) -> None:
    async with site(tmp_path) as both:
        hot = await busy(both, random.Random(5))
        files = {
            "a": image_of(both, "a", both.a.node.volumes.get("first").record.id),
            "b": image_of(both, "b", both.b.node.volumes.get("second").record.id),
        }
        for name in names:
            await both.stop(name, how)
        # A write that had reached one side only when the power went.
        with files[names[0]].open("r+b") as file:
            file.seek(hot * BLOCK)
            file.write(b"t" * BLOCK)
        differing = differing_blocks(files["a"].read_bytes(), files["b"].read_bytes())
        for name in names:
            await both.start(name)
        await both.in_sync()
        info = both.a.pair("remote")
        assert 0 < info.resync_compared_bytes <= HOT_BYTES * len(names)
        assert 0 < info.resync_payload_bytes <= differing * BLOCK
        assert info.dirty_bytes == both.b.pair("remote").dirty_bytes == 0
        assert both.a.image("first") == both.b.image("second")


async def test_what_was_marked_before_the_crash_travels_unasked(tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await both.a.do("pair.split", m.PairSplit(name="remote"))
        await write(both.a.volume("first"), 0, b"m" * 8 * BLOCK)
        await both.restart("a", "clean")
        await write(both.a.volume("first"), EXTENT, b"d" * BLOCK)
        await both.restart("a", "killed")
        await both.linked()
        await both.a.do("pair.resync", m.PairResync(name="remote"))
        await both.in_sync()
        info = both.a.pair("remote")
        assert info.resync_payload_bytes == 9 * BLOCK
        assert info.resync_compared_bytes == EXTENT
        assert both.a.image("first") == both.b.image("second")
