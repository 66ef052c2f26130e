"""Stories of writes: hot, cold, wide, forced, discarded, fenced, cut off, and passed on.

Owns the order of their steps only: `steps.py` carries them out, and what is judged is elsewhere.
"""

from __future__ import annotations

from controller.api import messages as m
from tests.sim.crashpoints.scenario import ASYNC, LOCAL, Scenario, busy
from tests.sim.crashpoints.steps import Steps
from tests.sim.crashpoints.world import Setting


async def _hot_writes(steps: Steps) -> None:
    await steps.write(9)
    await steps.write(3)
    await steps.flush()


async def _cold_writes(steps: Steps) -> None:
    await steps.write(12)
    await steps.write(5)
    await steps.write(0)


async def _fua_write(steps: Steps) -> None:
    await steps.write(12)
    await steps.write(9, fua=True)
    await steps.write(3)


async def _partial_blocks(steps: Steps) -> None:
    await steps.write(9.125, 0.5)
    await steps.write(2.875, 0.25)
    await steps.flush()


async def _wide_write(steps: Steps) -> None:
    await steps.write(6.5, 5.25)
    await steps.flush()


async def _discard(steps: Steps) -> None:
    await steps.write(4.5, 6, discard=True)
    await steps.write(5)
    await steps.flush()


async def _parallel_writes(steps: Steps) -> None:
    for block in (14, 13, 7, 2, 0):
        steps.meanwhile(steps.write(block))
    await steps.flush()
    await steps.settle()


async def _fenced_write(steps: Steps) -> None:
    await steps.write(9)
    await steps.cut()
    await steps.write(5)
    await steps.until()
    await steps.write(3)


async def _writes_while_cut(steps: Steps) -> None:
    # The ends hear of the cut a little later: what is written until then is lost on its way.
    steps.meanwhile(steps.cut())
    await steps.write(12)
    await steps.write(9)
    await steps.flush()
    await steps.when(lambda: not steps.machine("a").node.peers()["b"])
    await steps.write(3)
    await steps.until()


async def _chain_writes(steps: Steps) -> None:
    await steps.write(14)
    await steps.write(3)
    await steps.flush()


SCENARIOS = [
    Scenario("hot-write", "writes to hot extents, a flush", _hot_writes, before=_hot_writes),
    Scenario(
        "cold-write", "writes to cold extents, which make others leave", _cold_writes, before=busy
    ),
    Scenario("fua-write", "a write with FUA behind one without", _fua_write),
    Scenario("partial-blocks", "writes that begin and end within blocks", _partial_blocks),
    Scenario("wide-write", "a write longer than an extent", _wide_write),
    Scenario("discard", "a discard of several extents, and a write into it", _discard),
    Scenario("parallel-writes", "five writes and a flush at once", _parallel_writes),
    Scenario("async-write", "cold writes and a flush in async mode", _parallel_writes, ASYNC),
    Scenario(
        "fence-data",
        "writes and a cut with fence level data",
        _fenced_write,
        Setting(fence=m.Fence.DATA),
    ),
    Scenario(
        "fence-status",
        "writes and a cut with fence level status",
        _fenced_write,
        Setting(fence=m.Fence.STATUS),
    ),
    Scenario("cut", "writes while the link is cut, and the way back", _writes_while_cut),
    Scenario("chain-write", "writes that reach the third volume", _chain_writes, LOCAL),
]
