"""What a restore does with patterns, places and changed files, and what its receipt says."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from controller.api.messages import PairState as P
from hostagent.copying.patterns import Asked
from hostagent.jobs.engine import JobEngine
from hostagent.jobs.restore import RESTORE
from tests.unit.hostagent.kit import ALL, Kit, once, restore_params, untouched
from tests.unit.hostagent.world import World

CHANGED = {"a": "good", "b": "new"}


async def test_patterns_are_expanded_in_the_view_and_stay_as_they_were(
    kit: Kit, world: World
) -> None:
    world.third.update({"x1": "one", "x2": "two"})
    world.kill_at = once("copy 1")
    info = await kit.run(JobKind.RESTORE, restore_params("x*", conflict="overwrite"))
    assert kit.lives == 2
    assert world.calls.count("find") == 1, "a job that goes on keeps its set"
    assert info.state is JobState.DONE, info
    assert world.first == {"a": "bad", "b": "new", "x1": "one", "x2": "two"}
    assert info.receipt is not None
    assert [f.path for f in info.receipt.files] == ["x1", "x2"]


async def test_a_pattern_without_a_match_is_missing(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params("a", "z*"))
    assert (info.state, info.code) == (JobState.FAILED, Code.NOT_FOUND)
    assert "z*" in info.error
    untouched(world)


async def test_what_has_changed_is_kept_by_default(kit: Kit, world: World) -> None:
    params = restore_params("a", "b")
    params["conflict"] = None
    info = await kit.run(JobKind.RESTORE, params)
    kept = f".before-{info.id}"
    assert world.first == {"a": "good", f"a{kept}": "bad", "b": "old", f"b{kept}": "new"}
    assert info.receipt is not None
    assert info.receipt.conflict is m.Conflict.KEEP_BOTH
    assert info.receipt.conflict_count == 2
    assert info.receipt.conflicts[0] == m.ConflictInfo(
        path="a", changed="content", action="keep", kept_as=f"a{kept}"
    )


@pytest.mark.parametrize("moment", [
    f"step {step} {when}" for step in RESTORE.names for when in ("begins", "ended")
] + ["copy 0", "copy 1", "before verify", "before compare"])  # fmt: skip
async def test_killed_at_any_moment_the_receipt_still_names_every_conflict(
    kit: Kit, world: World, moment: str
) -> None:
    world.kill_at = once(moment)
    info = await kit.run(JobKind.RESTORE, restore_params("a", "b", conflict="keep-both"))
    assert kit.lives == 2
    assert info.receipt is not None
    assert [one.path for one in info.receipt.conflicts] == ["a", "b"]
    assert world.first[f"a.before-{info.id}"] == "bad"
    assert world.first["a"] == "good"


async def test_what_is_skipped_stays_and_is_named(kit: Kit, world: World) -> None:
    world.third["gone"] = "back"
    info = await kit.run(JobKind.RESTORE, restore_params("a", "gone", conflict="skip"))
    assert world.first == {"a": "bad", "b": "new", "gone": "back"}
    assert info.receipt is not None
    assert [f.path for f in info.receipt.files] == ["gone"]
    assert [(c.path, c.action) for c in info.receipt.conflicts] == [("a", "skip")]


@pytest.mark.parametrize("start", [P.PAIR, P.PSUS])
async def test_told_to_fail_it_names_what_changed_before_host_1_lets_go(
    kit: Kit, world: World, start: P
) -> None:
    world.remote = start
    info = await kit.run(JobKind.RESTORE, restore_params("a", conflict="fail"))
    assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
    assert info.error == "conflicts: changed since the backup: a"
    assert "--conflict" in info.next_step
    assert "fs.release" not in world.calls
    assert world.remote is start
    world.remote = P.PAIR
    untouched(world)


@pytest.mark.parametrize("start", [P.PAIR, P.PSUS])
async def test_told_to_fail_it_looks_again_when_nobody_else_can_write(
    kit: Kit, world: World, start: P
) -> None:
    world.remote = start
    looks = "fs.list" if start is P.PAIR else "view.open"
    world.faults[looks] = [RejectedError(Code.WRONG_STATE, "not now")]
    if start is P.PSUS:
        # The first view is the backup's.
        world.faults["compare"] = [RejectedError(Code.WRONG_STATE, "not now")]
        del world.faults["view.open"]
    info = await kit.run(JobKind.RESTORE, restore_params("a", conflict="fail"))
    assert info.error == "compare: changed since the backup: a"
    assert not world.views
    assert world.first_mounted
    assert world.remote is start


async def test_told_to_fail_and_nothing_has_changed(kit: Kit, world: World) -> None:
    world.remote = P.PSUS
    world.third["gone"] = "back"
    info = await kit.run(JobKind.RESTORE, restore_params("gone", conflict="fail"))
    assert info.state is JobState.DONE, info
    assert world.first["gone"] == "back"


async def test_more_conflicts_than_can_be_remembered_are_refused(kit: Kit, world: World) -> None:
    world.max_conflicts = 1
    info = await kit.run(JobKind.RESTORE, restore_params("a", "b", conflict="skip"))
    assert info.state is JobState.FAILED
    assert "2 files have changed since the backup" in info.error
    untouched(world)
    world.replies.clear()
    engine = kit.engine()
    begun, _ = await engine.begin(
        JobKind.RESTORE, ALL["ds"], "second", restore_params("a", "b", conflict="overwrite")
    )
    info = await kit.see_through(engine, begun.id)
    assert info.receipt is not None
    assert (info.receipt.conflict_count, len(info.receipt.conflicts)) == (2, 1)


async def test_another_place_is_in_the_plan_and_the_receipt(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params("a", to="/srv/db/restored"))
    assert world.first == {"a": "bad", "b": "new", "restored/a": "good"}
    assert info.plan is not None
    assert info.receipt is not None
    assert (info.plan.to, info.receipt.to) == ("restored", "restored")
    assert info.receipt.conflicts == []


async def test_a_place_outside_is_refused_before_anything(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params("a", to="../x"))
    assert (info.state, info.code, info.step) == (JobState.FAILED, Code.BAD_REQUEST, "plan")
    untouched(world)


async def test_a_receipt_has_its_times(kit: Kit, world: World) -> None:
    real = world.copy

    async def slow(*args: object) -> object:
        world.clock.now_s += 7
        return await real(*args)  # type: ignore[arg-type]

    world.copy = slow  # type: ignore[method-assign, assignment]
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert info.receipt is not None
    assert info.receipt.step_s["copy"] == 7
    assert info.receipt.finished_at - info.receipt.started_at == info.receipt.duration_s >= 7


async def test_jobs_and_receipts_are_listed_after_a_restart(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params())
    world.states.clear()
    engine: JobEngine = kit.engine()
    await engine.load(ALL)
    assert engine.list_jobs() == [info]
    assert engine.show(info.id).receipt == info.receipt
    assert world.states == [info], "and operators see it again"


def test_asked_is_what_a_pattern_is_made_of() -> None:
    assert Asked("a*").is_pattern
    assert not Asked("a").is_pattern
