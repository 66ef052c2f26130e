"""Quick splits on file systems that share extents: the third takes over what the second has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from controller.api import messages as m
from tests.filesystems import mounted
from tests.integration.pairs.quick import BLOCK, QUICK, copied, fast, slow
from tests.rig import Running, chain, eventually, two_nodes, write

SIZE = 64 << 20
MIB = 1 << 20

pytestmark = [pytest.mark.root, pytest.mark.tools]


@pytest.fixture(params=["xfs", "btrfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that shares extents."""
    with mounted(tmp_path, request.param) as (_, mountpoint):
        yield mountpoint


async def parted(a: Running, b: Running) -> None:
    """The third is an old backup, from which the second differs in 40 MiB."""
    await chain(a, b, SIZE)
    await b.do("pair.split", m.PairSplit(name="local", label="old"))
    for at in range(0, 40 * MIB, MIB):
        await write(a.volume("first"), at, bytes([at // MIB | 0x40]) * MIB)


def free_bytes(where: Path) -> int:
    os.sync()
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


async def test_the_third_takes_no_space_for_what_the_second_has(sharing: Path) -> None:
    async with two_nodes(sharing) as (a, b):
        await parted(a, b)
        at_split, free = b.image("second"), free_bytes(sharing)
        # What is copied before the instant is not shared: that is held up.
        await slow(b)
        await b.do("pair.split", QUICK)
        fast(b)
        await copied(b)
        assert b.image("third") == at_split
        assert free - free_bytes(sharing) < 12 * MIB, "of 40"
        await write(a.volume("first"), 0, b"now" * MIB)
        assert b.image("third") == at_split != b.image("second") == a.image("first")


async def test_what_hosts_write_meanwhile_is_not_in_the_third(sharing: Path) -> None:
    async with two_nodes(sharing) as (a, b):
        await parted(a, b)
        at_split = b.image("second")
        await slow(b)
        await b.do("pair.split", QUICK)
        await b.do("view.open", m.ViewOpen(volume="third", view="look"))
        rng = Random(3)
        for _ in range(60):
            at = rng.randrange(SIZE // BLOCK - 8) * BLOCK
            await write(a.volume("first"), at, rng.randbytes(512 * rng.randint(1, 60)))
        fast(b)
        assert await eventually(lambda: not b.pair("local").behind)
        assert b.image("third") == at_split
        assert b.image("second") == a.image("first")
