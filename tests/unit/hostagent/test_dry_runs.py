"""What a dry run tells, from both starting points, and that it leaves nothing behind."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from controller.api.messages import PairState as P
from tests.unit.hostagent.kit import Kit, once, restore_params, untouched
from tests.unit.hostagent.world import World


async def dry_run(kit: Kit, *paths: str, **more: str) -> m.RestorePlan:
    info = await kit.run(JobKind.RESTORE, restore_params(*paths, dry_run=True, **more))
    assert info.state is JobState.DONE, info
    assert info.error == ""
    assert info.receipt is None
    assert info.plan is not None
    return info.plan


async def test_in_sync_host_1_tells_what_has_changed(kit: Kit, world: World) -> None:
    world.third.update({"same": "s", "gone": "g"})
    world.first["same"] = world.second["same"] = "s"
    plan = await dry_run(kit, "a", "b", "same", "gone", conflict="keep-both")
    assert (plan.starting_point, plan.overwritten_bytes) == ("in_sync", 0)
    assert "everything written on the first volume since the backup stays" in plan.meaning
    assert [(c.path, c.changed, c.action) for c in plan.conflicts] == [
        ("a", "content", "keep"),
        ("b", "content", "keep"),
    ]
    assert plan.conflict_count == 2
    assert plan.conflicts_unknown == ""
    assert plan.file_count == 4
    assert plan.expected_union_bytes >= plan.union_bytes + plan.bytes_to_copy == 40
    assert plan.eta_s > 0
    assert "fs.list" in world.calls
    del world.first["same"], world.second["same"], world.third["same"], world.third["gone"]
    untouched(world)


async def test_a_split_pair_is_looked_at_through_a_view_of_the_second(
    kit: Kit, world: World
) -> None:
    world.remote, world.second["a"] = P.PSUS, "good"
    plan = await dry_run(kit, "a", "b", conflict="skip")
    assert plan.starting_point == "split"
    assert plan.overwritten_bytes == 4096
    assert "4096 bytes in blocks written on the first since the split are overwritten" in (
        plan.meaning
    )
    assert [(c.path, c.action) for c in plan.conflicts] == [("b", "skip")]
    assert "fs.list" not in world.calls, "what host 1 has now doesn't matter here"
    assert not world.views
    assert not world.mounted
    assert world.remote is P.PSUS
    assert world.first_mounted


async def test_split_and_nothing_written_since(
    kit: Kit, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world._pair
    monkeypatch.setattr(
        world, "_pair", lambda *args: real(*args).model_copy(update={"dirty_bytes": 0})
    )
    world.remote = P.PSUS
    plan = await dry_run(kit, "a")
    assert "nothing was written on the first volume since the split" in plan.meaning


async def test_another_place_has_its_own_conflicts(kit: Kit, world: World) -> None:
    world.first["restored/a"] = "old"
    plan = await dry_run(kit, "a", "b", to="restored", conflict="keep-both")
    assert [c.path for c in plan.conflicts] == ["restored/a"]
    assert plan.conflicts[0].kept_as.startswith("restored/a.before-restore-")


@pytest.mark.parametrize("start", [P.PAIR, P.PSUS])
async def test_what_cannot_be_looked_at_is_said_and_is_no_failure(
    kit: Kit, world: World, start: P
) -> None:
    world.remote = start
    away = RejectedError(Code.WRONG_STATE, "it is not there")
    world.faults["fs.list" if start is P.PAIR else "compare"] = [away]
    plan = await dry_run(kit, "a")
    assert plan.conflicts_unknown == "it is not there"
    assert not world.views
    assert not world.mounted


async def test_a_second_volume_in_use_is_left_to_its_users(kit: Kit, world: World) -> None:
    session = m.SessionInfo(initiator="iqn.2026-11.io.trilun:x", address="", since_s=1)
    real = world._volume
    world.remote = P.PSUS
    world._volume = lambda name: real(name).model_copy(  # type: ignore[method-assign]
        update={"sessions": [session] if name == "v2" else []}
    )
    plan = await dry_run(kit, "a")
    assert "iqn.2026-11.io.trilun:x uses volume 'v2'" in plan.conflicts_unknown
    assert not [view for view in world.views if view.startswith("now")]


@pytest.mark.parametrize("start", [P.PAIR, P.PSUS])
async def test_killed_at_any_moment_it_leaves_nothing_open(
    kit: Kit, world: World, start: P
) -> None:
    world.remote = start
    seen: set[str] = set()

    def kill(moment: str) -> bool:
        first = moment not in seen
        seen.add(moment)
        return first

    world.kill_at = kill
    plan = await dry_run(kit, "a")
    assert plan.conflict_count == 1
    assert kit.lives > 10
    assert not world.views
    assert not world.mounted
    assert world.first_mounted
    assert world.remote is start


async def test_the_files_that_are_not_there_are_named_with_those_that_are(
    kit: Kit, world: World
) -> None:
    world.kill_at = once("never")
    info = await kit.run(JobKind.RESTORE, restore_params("a", "gone", dry_run=True))
    assert (info.state, info.code) == (JobState.FAILED, Code.NOT_FOUND)
    assert info.plan is not None
    assert info.plan.missing == ["gone"]
    assert [f.path for f in info.plan.files] == ["a"]
    untouched(world)
