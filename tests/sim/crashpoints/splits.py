"""Stories of splits: of one pair, by a mark in the stream, and what is written after them.

Owns the order of their steps only: `steps.py` carries them out, and what is judged is elsewhere.
"""

from __future__ import annotations

from controller.api import messages as m
from tests.sim.crashpoints.scenario import ASYNC, GROUP, LOCAL, Scenario
from tests.sim.crashpoints.steps import Steps

PSUS = m.PairState.PSUS


async def _cold_writes_after_split(steps: Steps) -> None:
    for block in (14, 11, 9, 7, 5, 2):
        await steps.write(block)


async def _split(steps: Steps) -> None:
    await steps.write(12)
    await steps.write(3)
    await steps.split()
    await steps.settle()


async def _second_cold(steps: Steps) -> None:
    for block in (12, 9, 6):
        await steps.write(block)
    await steps.stop("b")
    await steps.start("b")
    await steps.until()


async def _split_behind_queue(steps: Steps) -> None:
    # Hot at the first, cold at the second: it has to queue what the first has acknowledged.
    for block in (12, 9, 6):
        await steps.write(block)
    await steps.split()
    await steps.write(12)
    await steps.settle()


async def _split_under_writes(steps: Steps) -> None:
    for block in (12, 9, 6):
        steps.meanwhile(steps.write(block))
    steps.meanwhile(steps.split())
    steps.meanwhile(steps.write(2))
    await steps.settle()


async def _split_writable(steps: Steps) -> None:
    await steps.write(5)
    await steps.split(writable=True)
    await steps.opened("second")
    await steps.write(9, volume="second")
    await steps.flush("second")


async def _split_again_writable(steps: Steps) -> None:
    await steps.split(writable=True)
    await steps.settle()


async def _split_only(steps: Steps) -> None:
    await steps.split()
    await steps.settle()


async def _first_write_after_split(steps: Steps) -> None:
    await steps.write(9)
    await steps.write(3)
    await steps.flush()


async def _marked(steps: Steps) -> None:
    await steps.write(12)
    await steps.write(5)
    await steps.mark()
    await steps.write(2)


async def _marked_under_writes(steps: Steps) -> None:
    for block in (9, 5):
        steps.meanwhile(steps.write(block))
    steps.meanwhile(steps.mark())
    steps.meanwhile(steps.write(3))
    await steps.settle()


async def _split_cut(steps: Steps) -> None:
    await steps.write(9)
    steps.meanwhile(steps.split(answered=False))
    await steps.when(
        lambda: (
            (record := steps.world.operator.record(steps.plan("remote"), m.Role.P_VOL)) is not None
            and record.state is PSUS
        )
    )
    await steps.cut()
    await steps.write(3)
    await steps.until(state=PSUS)


async def _marked_only(steps: Steps) -> None:
    await steps.mark()
    await steps.write(9)


async def _third_behind(steps: Steps) -> None:
    # Two extents only: with more of them a settling would flush what the split has to.
    await steps.split("local")
    for block in (14, 9):
        await steps.write(block)
    await steps.settle()


async def _quick(steps: Steps) -> None:
    await steps.split("local", quick=True)
    for block in (15, 9, 2):
        await steps.write(block)
    await steps.until("local", PSUS)
    await steps.settle()


async def _quick_under_writes(steps: Steps) -> None:
    steps.meanwhile(steps.write(6))
    steps.meanwhile(steps.split("local", quick=True))
    for block in (14, 3):
        steps.meanwhile(steps.write(block))
    await steps.until("local", PSUS)
    await steps.settle()


async def _quick_cut(steps: Steps) -> None:
    """The link between the machines goes, and its resync writes to what is still owed."""
    await steps.split("local", quick=True)
    steps.meanwhile(steps.write(15))
    await steps.cut()
    for block in (9, 2):
        await steps.write(block)
    await steps.until()
    await steps.until("local", PSUS)
    await steps.settle()


async def _quick_given_up(steps: Steps) -> None:
    await steps.split("local", quick=True)
    steps.meanwhile(steps.write(15))
    await steps.resync("local")
    await steps.write(2)
    await steps.until("local")
    await steps.settle()


async def _group_kept(steps: Steps) -> None:
    for block in (12, 5):
        steps.meanwhile(steps.write(block))
        steps.meanwhile(steps.write(block, volume="first2"))
    await steps.group_backup(keep=True)
    await steps.write(3)
    await steps.write(3, volume="first2")
    await steps.settle()


async def _group_split_too(steps: Steps) -> None:
    await steps.write(12)
    await steps.group_backup(keep=True, split_remote=True)
    await steps.write(3, volume="first2")
    await steps.settle()


async def _group_dropped(steps: Steps) -> None:
    await steps.group_backup(keep=False)
    await steps.write(9)
    await steps.until("local")
    await steps.until("local2")
    await steps.settle()


async def _group_split(steps: Steps) -> None:
    for volume in ("first", "first2"):
        steps.meanwhile(steps.write(12, volume=volume))
    await steps.group_split()
    await steps.write(3)
    await steps.write(5, volume="first2")
    await steps.settle()


async def _group_split_and_written(steps: Steps) -> None:
    await _group_made(steps)
    await _group_split(steps)


async def _group_resync(steps: Steps) -> None:
    await steps.group_resync()
    await steps.until("remote")
    await steps.until("remote2")
    await steps.settle()


async def _group_split_brain(steps: Steps) -> None:
    await _group_made(steps)
    await steps.group_split(writable=True)
    for volume in ("first", "first2", "second2"):
        await steps.opened(volume)
        await steps.write(9, volume=volume)


async def _group_resync_refused(steps: Steps) -> None:
    await steps.group_resync(refused=True)
    await steps.write(5)
    await steps.settle()


async def _group_made(steps: Steps) -> None:
    await steps.world.groups.create()
    await steps.write(9)
    await steps.write(6, volume="first2")


async def _view(steps: Steps) -> None:
    await steps.give("b", "view.open", m.ViewOpen(volume="third", view="view"))
    await steps.write_view(3)
    await steps.write(2)
    await steps.give("b", "view.close", m.Named(name="view"))


SCENARIOS = [
    Scenario("split", "writes, then a split", _split),
    Scenario("split-under-writes", "a split between writes under way", _split_under_writes),
    Scenario("split-async", "the same in async mode", _split_under_writes, ASYNC),
    Scenario(
        "split-behind-queue",
        "a split while the second still queues what was acknowledged",
        _split_behind_queue,
        ASYNC,
        before=_second_cold,
    ),
    Scenario("split-writable", "a split, and the first write at the second", _split_writable),
    Scenario("split-again", "a split is made writable", _split_again_writable, before=_split_only),
    Scenario(
        "first-write",
        "the first writes after a split",
        _first_write_after_split,
        before=_split_only,
    ),
    Scenario(
        "split-cold-write",
        "so many writes after a split that marked extents leave",
        _cold_writes_after_split,
        before=_split_only,
    ),
    Scenario("split-cut", "a cut while a split is under way", _split_cut),
    Scenario("mark", "a backup's mark between writes", _marked, LOCAL),
    Scenario("mark-under-writes", "a mark among writes under way", _marked_under_writes, LOCAL),
    Scenario(
        "quick-split",
        "a quick split of a local pair, and writes to what it owes",
        _quick,
        LOCAL,
        before=_third_behind,
    ),
    Scenario(
        "quick-split-under-writes",
        "the same among writes under way",
        _quick_under_writes,
        LOCAL,
        before=_third_behind,
    ),
    Scenario(
        "quick-split-cut",
        "a quick split, and a cut while it is copied behind",
        _quick_cut,
        LOCAL,
        before=_third_behind,
    ),
    Scenario(
        "quick-split-given-up",
        "a quick split that is given up for another copy",
        _quick_given_up,
        LOCAL,
        before=_third_behind,
    ),
    Scenario(
        "group-kept",
        "a mark for two data sets among writes, kept as one backup",
        _group_kept,
        GROUP,
        before=_group_made,
    ),
    Scenario(
        "group-split-remote",
        "the same, with both remote pairs split at that instant",
        _group_split_too,
        GROUP,
        before=_group_made,
    ),
    Scenario(
        "group-split",
        "two remote pairs are split at one instant",
        _group_split,
        GROUP,
        before=_group_made,
    ),
    Scenario(
        "group-resync",
        "both are brought back",
        _group_resync,
        GROUP,
        before=_group_split_and_written,
    ),
    Scenario(
        "group-resync-refused",
        "neither is, because of a split-brain of one",
        _group_resync_refused,
        GROUP,
        before=_group_split_brain,
    ),
    Scenario(
        "group-dropped",
        "a mark for two data sets that nobody keeps",
        _group_dropped,
        GROUP,
        before=_group_made,
    ),
    Scenario("view", "a view of the third: open, write, close", _view, LOCAL, before=_marked_only),
]
