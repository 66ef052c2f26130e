"""Stories of copies: forward, back, cut, under writes, and from the third volume to the first.

Owns the order of their steps only: `steps.py` carries them out, and what is judged is elsewhere.
"""

from __future__ import annotations

from controller.api import messages as m
from tests.sim.crashpoints.scenario import LOCAL, UNDO, Scenario
from tests.sim.crashpoints.steps import Steps


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


async def _backed_up(steps: Steps) -> None:
    await steps.mark()
    await steps.write(9)
    await steps.write(2)
    await steps.settle()


async def _restore_undoable(steps: Steps) -> None:
    """What is overwritten is kept at the same instant; the backup is split again, and stays."""
    await steps.mark("undo", split_remote=True)
    await steps.resync("local", reverse=True)
    await steps.until("local")
    await steps.split("local")
    await steps.resync(reverse=True)
    await steps.until()
    await steps.settle()


async def _undo(steps: Steps) -> None:
    """The way back: from what was kept."""
    await steps.resync("undo", reverse=True)
    await steps.until("undo")
    await steps.split("undo")
    await steps.resync(reverse=True)
    await steps.until()
    await steps.settle()


async def _restored(steps: Steps) -> None:
    await _backed_up(steps)
    await _restore_undoable(steps)
    # No instant of what was written: hosts' writes have been taken back.
    await steps.split()


async def _guarded_copy(steps: Steps) -> None:
    await steps.resync()
    await steps.until()
    await steps.until("local")
    await steps.settle()


async def _crash_in_copy_back(steps: Steps) -> None:
    steps.meanwhile(steps.resync(reverse=True))
    await steps.copying("remote", m.Role.P_VOL)
    await steps.plug_pulled("drop", "a")
    await steps.start("a")
    await steps.until()


SCENARIOS = [
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
        "restore-undoable",
        "the same, and what is overwritten is kept for an undo",
        _restore_undoable,
        UNDO,
        before=_backed_up,
    ),
    Scenario("restore-undo", "the way back from that", _undo, UNDO, before=_restored),
    Scenario(
        "guarded-resync",
        "a copy into the second, which the third stays away from",
        _guarded_copy,
        LOCAL,
        before=_split_and_written,
    ),
]
