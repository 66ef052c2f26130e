"""The scenarios: what happens, step by step, around every place where power may be lost.

Owns the list. Each is a world at rest and a short story; a copy goes upwards through a volume,
so the stories write downwards, and half a copy is never one instant of what was written. Blocks
are 4 KiB, extents two blocks, and four extents are hot at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from controller.api import messages as m
from tests.sim.crashpoints.steps import Steps
from tests.sim.crashpoints.world import SIZE_BYTES, Setting

PSUS, PSUE, RCPY = m.PairState.PSUS, m.PairState.PSUE, m.PairState.RCPY
LOCAL = Setting(local=True)


@dataclass(frozen=True)
class Scenario:
    """`before` happens unharmed; power is lost at every boundary of `story`."""

    name: str
    about: str
    story: Callable[[Steps], Awaitable[None]]
    setting: Setting = field(default_factory=Setting)
    before: Callable[[Steps], Awaitable[None]] | None = None


# ------------------------------------------------------------ writes


async def _hot_writes(steps: Steps) -> None:
    await steps.write(9)
    await steps.write(3)
    await steps.flush()


async def _cold_writes(steps: Steps) -> None:
    await steps.write(14)
    await steps.write(6)
    await steps.write(2)


async def _fua_write(steps: Steps) -> None:
    await steps.write(12)
    await steps.write(9, fua=True)


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
    await steps.cut()
    await steps.write(12)
    await steps.write(9)
    await steps.flush()
    await steps.until()


# ------------------------------------------------------------ splits


async def _split(steps: Steps) -> None:
    await steps.write(12)
    await steps.write(3)
    await steps.split()
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


# ------------------------------------------------------------ copies


async def _split_and_written(steps: Steps) -> None:
    await steps.split()
    for block in (12, 9, 2):
        await steps.write(block)


async def _copy_forward(steps: Steps) -> None:
    await steps.resync()
    await steps.until()
    await steps.settle()


async def _copy_forward_under_writes(steps: Steps) -> None:
    steps.meanwhile(steps.resync())
    for block in (13, 9, 4):
        await steps.write(block)
    await steps.until()
    await steps.settle()


async def _copy_full(steps: Steps) -> None:
    await steps.resync(full=True)
    await steps.until()


async def _written_at_second(steps: Steps) -> None:
    await steps.split(writable=True)
    await steps.opened("second")
    for block in (12, 2):
        await steps.write(block, volume="second")


async def _split_for_reverse(steps: Steps) -> None:
    await steps.split()
    for block in (12, 9, 2):
        await steps.write(block)
    await steps.flush()


async def _copy_back(steps: Steps) -> None:
    await steps.resync(reverse=True)
    await steps.until()
    await steps.settle()


async def _copy_back_and_write(steps: Steps) -> None:
    await steps.resync(reverse=True)
    await steps.opened("first")
    await steps.write(12)
    await steps.until()


async def _written_at_both(steps: Steps) -> None:
    await steps.split(writable=True)
    await steps.opened("second")
    await steps.write(9)
    await steps.write(5, volume="second")


async def _copy_forward_cut(steps: Steps) -> None:
    await steps.resync()
    await steps.copying("remote", m.Role.S_VOL)
    await steps.cut()
    await steps.until()
    await steps.settle()


async def _copy_back_cut(steps: Steps) -> None:
    steps.meanwhile(steps.resync(reverse=True))
    await steps.copying("remote", m.Role.P_VOL)
    await steps.cut()
    await steps.until()
    await steps.settle()


# ------------------------------------------------------------ the third volume


async def _chain_writes(steps: Steps) -> None:
    await steps.write(14)
    await steps.write(3)
    await steps.flush()


async def _local_split_and_copy(steps: Steps) -> None:
    await steps.split("local")
    await steps.write(9)
    await steps.write(2)
    await steps.resync("local")
    await steps.until("local")


async def _both_split_and_written(steps: Steps) -> None:
    await steps.mark()
    await steps.write(9)
    await steps.write(2)
    await steps.split()


async def _restore_whole(steps: Steps) -> None:
    await steps.resync("local", reverse=True)
    await steps.until("local")
    await steps.resync(reverse=True)
    await steps.until()
    await steps.settle()


async def _guarded_copy(steps: Steps) -> None:
    await steps.resync()
    await steps.until()
    await steps.until("local")
    await steps.settle()


async def _marked_only(steps: Steps) -> None:
    await steps.mark()
    await steps.write(9)


async def _view(steps: Steps) -> None:
    await steps.give("b", "view.open", m.ViewOpen(volume="third", view="view"))
    await steps.write_view(3)
    await steps.write(2)
    await steps.give("b", "view.close", m.Named(name="view"))


# ------------------------------------------------------------ stops, starts and crashes


async def _clean_restart_first(steps: Steps) -> None:
    await steps.stop("a")
    await steps.start("a")
    await steps.until()


async def _clean_restart_second(steps: Steps) -> None:
    await steps.stop("b")
    await steps.write(5)
    await steps.start("b")
    await steps.until()


async def _busy(steps: Steps) -> None:
    for block in (14, 9, 6, 2):
        await steps.write(block)


async def _crash_first(steps: Steps) -> None:
    await steps.plug_pulled("torn", "a")
    await steps.start("a")
    await steps.until()
    await steps.settle()


async def _crash_second(steps: Steps) -> None:
    await steps.plug_pulled("drop", "b")
    await steps.write(12)
    await steps.start("b")
    await steps.until()
    await steps.settle()


async def _crash_both(steps: Steps) -> None:
    await steps.plug_pulled("random", "a", "b")
    await steps.start("b", "a")
    await steps.until()
    await steps.settle()


async def _crash_in_copy_back(steps: Steps) -> None:
    steps.meanwhile(steps.resync(reverse=True))
    await steps.copying("remote", m.Role.P_VOL)
    await steps.plug_pulled("drop", "a")
    await steps.start("a")
    await steps.until()


# ------------------------------------------------------------ making and dissolving


async def _pair_created(steps: Steps) -> None:
    await steps.create_pair("remote")
    await steps.write(2)
    await steps.until()
    await steps.settle()


async def _remote_only(steps: Steps) -> None:
    await steps.create_pair("remote")
    await steps.until()
    await steps.settle()


async def _local_created(steps: Steps) -> None:
    await steps.create_pair("local")
    await steps.write(5)
    await steps.until("local")
    await steps.settle()


async def _pair_deleted(steps: Steps) -> None:
    await steps.write(5)
    await steps.delete_pair("remote")
    await steps.write(2)


async def _local_deleted(steps: Steps) -> None:
    await steps.write(5)
    await steps.delete_pair("local")


async def _volume_made_and_deleted(steps: Steps) -> None:
    await steps.create_volume("extra")
    await steps.give("b", "volume.delete", m.VolumeDelete(name="extra"))


ASYNC = Setting(mode=m.Mode.ASYNC)
UNPAIRED = Setting(paired=False)

SCENARIOS = [
    Scenario("hot-write", "writes to hot extents, a flush", _hot_writes, before=_hot_writes),
    Scenario("cold-write", "writes to cold extents, which make others leave", _cold_writes),
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
    Scenario("split", "writes, then a split", _split),
    Scenario("split-under-writes", "a split between writes under way", _split_under_writes),
    Scenario("split-async", "the same in async mode", _split_under_writes, ASYNC),
    Scenario("split-writable", "a split, and the first write at the second", _split_writable),
    Scenario("split-again", "a split is made writable", _split_again_writable, before=_split_only),
    Scenario(
        "first-write",
        "the first writes after a split",
        _first_write_after_split,
        before=_split_only,
    ),
    Scenario("split-cut", "a cut while a split is under way", _split_cut),
    Scenario("mark", "a backup's mark between writes", _marked, LOCAL),
    Scenario("mark-under-writes", "a mark among writes under way", _marked_under_writes, LOCAL),
    Scenario("resync", "a copy forward", _copy_forward, before=_split_and_written),
    Scenario(
        "resync-under-writes",
        "a copy forward, and hosts write",
        _copy_forward_under_writes,
        before=_split_and_written,
    ),
    Scenario("resync-full", "a full copy forward", _copy_full, before=_split_and_written),
    Scenario(
        "resync-both-written",
        "a copy forward over what was written at the second",
        _copy_forward,
        before=_written_at_both,
    ),
    Scenario("resync-cut", "a cut in a copy forward", _copy_forward_cut, before=_split_and_written),
    Scenario("reverse", "a copy back to the split", _copy_back, before=_split_for_reverse),
    Scenario(
        "reverse-written",
        "a copy back of what was written at the second, and a write after it",
        _copy_back_and_write,
        before=_written_at_second,
    ),
    Scenario(
        "reverse-both-written",
        "a copy back over what was written at the first",
        _copy_back,
        before=_written_at_both,
    ),
    Scenario("reverse-cut", "a cut in a copy back", _copy_back_cut, before=_split_for_reverse),
    Scenario(
        "reverse-crash",
        "a crash of the first in a copy back, and another behind it",
        _crash_in_copy_back,
        before=_split_for_reverse,
    ),
    Scenario("local-resync", "the local pair is split and copied", _local_split_and_copy, LOCAL),
    Scenario(
        "restore-whole",
        "third to second to first",
        _restore_whole,
        LOCAL,
        before=_both_split_and_written,
    ),
    Scenario(
        "guarded-resync",
        "a copy into the second, which the third stays away from",
        _guarded_copy,
        LOCAL,
        before=_split_and_written,
    ),
    Scenario("view", "a view of the third: open, write, close", _view, LOCAL, before=_marked_only),
    Scenario("restart-first", "a clean restart of the first", _clean_restart_first, before=_busy),
    Scenario(
        "restart-second", "a clean restart of the second", _clean_restart_second, before=_busy
    ),
    Scenario("crash-first", "a crash in the recovery of the first", _crash_first, before=_busy),
    Scenario("crash-second", "a crash in the recovery of the second", _crash_second, before=_busy),
    Scenario("crash-both", "a crash in the recovery of both", _crash_both, before=_busy),
    Scenario("crash-chain", "the same with a third volume", _crash_second, LOCAL, before=_busy),
    Scenario("create-pair", "the initial copy, and a write", _pair_created, UNPAIRED),
    Scenario(
        "create-local",
        "the initial copy to the third",
        _local_created,
        Setting(local=True, paired=False),
        before=_remote_only,
    ),
    Scenario("delete-pair", "the remote pair is dissolved", _pair_deleted),
    Scenario("delete-local", "the local pair is dissolved", _local_deleted, LOCAL),
    Scenario(
        "volume",
        "a volume is made and deleted",
        _volume_made_and_deleted,
        Setting(extra=("extra",)),
    ),
]

assert SIZE_BYTES == 16 * 4096
