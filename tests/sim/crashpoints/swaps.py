"""Stories of roles that are exchanged: at rest, under writes, behind a takeover, and back.

Owns the order of their steps only. Whatever was lost, one side holds the P-VOL's role in the end,
and an operator can bring it home.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.pair import messages as msg
from tests.sim.crashpoints.scenario import ASYNC, LOCAL, Scenario, busy
from tests.sim.crashpoints.steps import Steps


async def _swap(steps: Steps) -> None:
    await steps.write(12)
    await steps.swap()
    await steps.settle()


async def _swap_and_write(steps: Steps) -> None:
    await steps.write(9)
    await steps.swap()
    await steps.write(14, volume="second")
    await steps.flush("second")
    await steps.write(3, volume="second")
    await steps.settle()


async def _there(steps: Steps) -> None:
    await busy(steps)
    await steps.swap()
    await steps.write(7, volume="second")
    await steps.settle()


async def _back(steps: Steps) -> None:
    await steps.write(12, volume="second")
    await steps.swap(back=True)
    await steps.write(5)
    await steps.flush()
    await steps.settle()


async def _under_writes(steps: Steps) -> None:
    # More extents than can be hot: the last of them wait for flushes.
    for block in (15, 13, 11, 9, 7, 5):
        steps.meanwhile(steps.write(block))
    steps.meanwhile(steps.swap())
    await steps.settle()


async def _first_lost(steps: Steps) -> None:
    await busy(steps)
    await steps.plug_pulled("keep", "a")


async def _taken_over(steps: Steps) -> None:
    await steps.takeover()
    await steps.write(12, volume="second")
    await steps.start("a")
    await steps.settle()


async def _swapped_alone(steps: Steps) -> None:
    await steps.takeover()
    await steps.write(12, volume="second")
    await steps.swap_alone()
    await steps.write(3, volume="second")
    await steps.start("a")
    await steps.follow()
    await steps.settle()


async def _cut(steps: Steps) -> None:
    await _offers(steps)
    await steps.cut()
    await steps.when(lambda: any(map(steps.mirrors, steps.either())))
    await steps.settle()


async def _cut_before(steps: Steps) -> None:
    await steps.write(9)
    steps.meanwhile(steps.swap(answered=False))
    await steps.when(lambda: _closed(steps))
    await steps.cut()
    await steps.opened("first")
    await steps.write(5)
    await steps.until()
    await steps.settle()


async def _offers(steps: Steps, *, lost: bool = False) -> None:
    await steps.write(9)
    steps.meanwhile(steps.swap(answered=False))
    if lost:
        await steps.when(lambda: _closed(steps))
        await steps.lingering(AWAY_S)
    await steps.when(lambda: _offered(steps))


async def _kept(steps: Steps) -> None:
    await _offers(steps, lost=True)
    await steps.cut(for_s=AWAY_S)
    await steps.keep()
    await steps.write(12)
    await steps.flush()
    await steps.write(3)
    await steps.until(state=m.PairState.PSUS)
    await steps.resync()
    await steps.until()
    await steps.settle()


async def _kept_in_vain(steps: Steps) -> None:
    """The other side has taken the role, and its hosts have written."""
    await _offers(steps)
    await steps.when(lambda: _taken(steps))
    await steps.cut(for_s=AWAY_S)
    await steps.write(5, volume="second")
    await steps.flush("second")
    await steps.keep()
    await steps.write(12)
    await steps.when(lambda: not _taken(steps))
    await steps.settle()
    await steps.resync(reverse=True)
    await steps.until()
    await steps.settle()


AWAY_S = 3.0


def _taken(steps: Steps) -> bool:
    away = steps.either()[1]
    return steps.world.operator.record(away, m.Role.P_VOL) is not None


def _offered(steps: Steps) -> bool:
    machine = steps.machine("a")
    owner = machine.node.pairs.find("remote") if machine.up else None
    return owner is not None and owner.talk.awaits(msg.Swapped)


def _closed(steps: Steps) -> bool:
    record = steps.world.operator.record(steps.plan("remote"), m.Role.P_VOL)
    return record is not None and record.closed == "swapping"


SCENARIOS = [
    Scenario("swap", "the roles are exchanged", _swap),
    Scenario("swap-async", "the same in async mode", _swap, ASYNC),
    Scenario("swap-third", "the same with a third volume behind the second", _swap, LOCAL),
    Scenario("swap-under-writes", "the same among writes under way", _under_writes),
    Scenario("swap-cut", "a cut while the role is offered", _cut),
    Scenario("swap-cut-before", "a cut just before the role is offered", _cut_before),
    Scenario("swap-kept", "a cut while the role is offered, and the first goes on alone", _kept),
    Scenario(
        "swap-kept-in-vain",
        "the same where the second has taken the role, and hosts have written to both",
        _kept_in_vain,
    ),
    Scenario("swap-write", "the roles are exchanged, and hosts write there", _swap_and_write),
    Scenario(
        "takeover", "the second takes over, and the first is back", _taken_over, before=_first_lost
    ),
    Scenario(
        "swap-alone",
        "the second takes over, and the first comes back as its mirror",
        _swapped_alone,
        before=_first_lost,
    ),
    Scenario("swap-back", "the roles go back after writes there", _back, before=_there),
]
