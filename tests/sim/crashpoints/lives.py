"""Stories of restarts and crashes, and of pairs and volumes that begin and end.

Owns the order of their steps only: `steps.py` carries them out, and what is judged is elsewhere.
"""

from __future__ import annotations

from controller.api import messages as m
from tests.sim.crashpoints.scenario import LOCAL, UNPAIRED, Scenario, busy
from tests.sim.crashpoints.steps import Steps
from tests.sim.crashpoints.world import Setting


async def _clean_restart_first(steps: Steps) -> None:
    await steps.stop("a")
    await steps.start("a")
    await steps.until()


async def _clean_restart_second(steps: Steps) -> None:
    await steps.stop("b")
    await steps.write(5)
    await steps.start("b")
    await steps.until()


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


SCENARIOS = [
    Scenario("restart-first", "a clean restart of the first", _clean_restart_first, before=busy),
    Scenario("restart-second", "a clean restart of the second", _clean_restart_second, before=busy),
    Scenario("crash-first", "a crash in the recovery of the first", _crash_first, before=busy),
    Scenario("crash-second", "a crash in the recovery of the second", _crash_second, before=busy),
    Scenario("crash-both", "a crash in the recovery of both", _crash_both, before=busy),
    Scenario("crash-chain", "the same with a third volume", _crash_second, LOCAL, before=busy),
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
