"""A local pair that is split quickly, and a copy behind it that takes as long as a test wants."""

from __future__ import annotations

from controller.api import messages as m
from controller.pair.pace import RateCap
from tests.rig import Running, chain, eventually, write

BLOCK = 4096
SIZE = 4 << 20
SLOW_BYTES_PER_S = 1 << 20

QUICK = m.PairSplit(name="local", quick=True, label="now")


async def parted(a: Running, b: Running, *, differing_bytes: int = 3 << 20) -> None:
    """The third holds an old backup, from which the second differs in so much."""
    await chain(a, b, SIZE)
    await b.do("pair.split", m.PairSplit(name="local", label="old"))
    for at in range(0, differing_bytes, 1 << 20):
        await write(a.volume("first"), at, bytes([at >> 20 | 0x40]) * (1 << 20))


async def slow(b: Running) -> None:
    """From here on a copy to the third takes seconds."""
    owner = b.node.pairs.get("local")
    owner.record.rate_limit_bytes_per_s = SLOW_BYTES_PER_S


async def copied(b: Running) -> None:
    assert await eventually(lambda: not b.pair("local").behind)


def fast(b: Running) -> None:
    """The copy behind the split that runs now isn't held up any more."""
    behind = b.node.pairs.get("local").side.behind
    assert behind is not None
    behind._cap = RateCap(None, 0.0)
