"""Databases in jobs: started again when undone, recovered when restored, and judged last."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.messages import DatabaseState, JobKind, JobState
from hostagent.errors import HostError
from tests.unit.hostagent.kit import Kit, once
from tests.unit.hostagent.world import DATA_SET, World


def database(state: DatabaseState = DatabaseState.GOOD, **more: str) -> m.DatabaseInfo:
    return m.DatabaseInfo(name="main", kind="hook", path="a", state=state, **more)


def params(*paths: str, conflict: str = "overwrite") -> dict[str, object]:
    return {"paths": list(paths), "conflict": conflict, "dry_run": False, "force": False}


async def test_a_restore_recovers_and_its_receipt_says_so(kit: Kit, world: World) -> None:
    world.database = database(done="looked at it")
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert info.state is JobState.DONE, info
    assert world.recoveries == [True]
    assert "make_exact" in world.calls
    assert info.receipt is not None
    assert info.receipt.databases == [world.database]


async def test_a_part_is_refused_before_anything_is_touched(kit: Kit, world: World) -> None:
    world.database = m.DatabaseInfo(name="main", kind="hook", path="a", also=["b"])
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert (info.state, info.code) == (JobState.FAILED, Code.BAD_REQUEST)
    assert "--conflict overwrite a b" in info.next_step
    assert world.recoveries == []
    assert "fs.release" not in world.calls


async def test_a_database_that_is_not_good_fails_the_job_behind_its_receipt(
    kit: Kit, world: World
) -> None:
    world.database = database(DatabaseState.FAILED, error="page 7 is torn", next_step="mend it")
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert (info.state, info.step) == (JobState.FAILED, "databases")
    assert "page 7 is torn" in info.error
    assert "nothing is undone" in info.error
    assert info.next_step == "mend it"
    assert info.receipt is not None
    assert info.receipt.databases == [world.database]
    assert world.first["a"] == "good", "the files are back all the same"
    assert world.recoveries == [True], "asking again changes nothing"


async def test_a_job_that_is_resumed_checks_again(kit: Kit, world: World) -> None:
    world.database = database(DatabaseState.FAILED, error="page 7 is torn", next_step="mend it")
    engine = kit.engine()
    begun, _ = await engine.begin(JobKind.RESTORE, DATA_SET, "request-1", params("a"))
    failed = await kit.see_through(engine, begun.id)
    assert failed.step == "databases"
    world.database = database()
    _, resumed = await engine.resume(begun.id)
    info = await kit.see_through(engine, begun.id)
    assert (resumed, info.state) == (True, JobState.DONE)
    assert info.receipt is not None
    assert info.receipt.databases == [world.database]
    assert world.recoveries == [True, True]


async def test_an_undone_restore_starts_what_it_stopped_and_checks_nothing(
    kit: Kit, world: World
) -> None:
    world.database = database(DatabaseState.STARTED)
    world.faults["copy"] = [HostError("the disk is full")]
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert (info.state, world.first_mounted) == (JobState.FAILED, True)
    assert world.recoveries == [False]


async def test_a_start_that_fails_in_an_undo_is_told(kit: Kit, world: World) -> None:
    world.database = database(DatabaseState.FAILED, error="it did not start", next_step="look")
    world.faults["copy"] = [HostError("the disk is full")]
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert info.state is JobState.FAILED
    assert "the disk is full" in info.error
    assert "it did not start" in info.error


async def test_an_undo_does_not_wait_for_a_database_that_has_nothing_to_start_from(
    kit: Kit, world: World
) -> None:
    world.database = database(DatabaseState.STOPPED)
    world.writes_lost = True
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert info.state is JobState.FAILED
    assert "flushing sda failed" in info.error
    assert "/srv/db is not mounted on h1: main will be started once it is" in info.error
    assert "systemctl restart trilun-agent@h1" in info.next_step
    assert world.recoveries == [False], "it is started once it is mounted"


@pytest.mark.parametrize("moment", ["before db.recover", "after db.recover", "step recover ended"])
async def test_an_agent_that_dies_beside_a_recovery_goes_on(
    kit: Kit, world: World, moment: str
) -> None:
    world.database = database()
    world.kill_at = once(moment)
    info = await kit.run(JobKind.RESTORE, params("a"))
    assert info.state is JobState.DONE, info
    assert world.recoveries == [True]


async def test_a_backup_tells_what_it_prepared(kit: Kit, world: World) -> None:
    world.database = database(DatabaseState.QUIESCED, done="checkpoint")
    info = await kit.run(JobKind.BACKUP, {"label": "monday", "quiesce": True})
    assert info.receipt is not None
    assert info.receipt.databases == [world.database]
