"""Jobs end the same wherever they were killed, and undo everything wherever they failed."""

from __future__ import annotations

import asyncio

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from controller.api.messages import PairState as P
from hostagent.errors import HostError
from hostagent.jobs.restore import RESTORE
from tests.unit.hostagent.kit import ALL, Kit, once, restore_params, untouched
from tests.unit.hostagent.world import DATA_SET, World

BACKUP_PARAMS = {"label": "monday", "quiesce": True}


def restored(world: World, info: m.JobInfo) -> None:
    assert info.state is JobState.DONE, info
    assert world.first == world.second == {"a": "good", "b": "new"}
    assert world.third == {"a": "good", "b": "old"}
    assert not world.views
    assert not world.mounted
    assert world.first_mounted
    assert world.remote is P.PAIR
    assert info.receipt is not None
    assert info.receipt.verified
    assert info.receipt.wire_bytes == 9000
    assert info.receipt.discarded_bytes == 4096
    assert [f.path for f in info.receipt.files] == ["a"]


# ---------------------------------------------------------------- restore


async def test_restore_brings_the_named_file_back_and_nothing_else(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params("/srv/db/a"))
    restored(world, info)
    assert info.plan is not None
    assert info.plan.starting_point == "in_sync"
    assert info.steps == RESTORE.names
    assert world.states[-1] == info
    order = [c for c in world.calls if c in {"fs.release", "pair.split", "fs.reclaim"}]
    assert order == ["fs.release", "pair.split", "fs.reclaim"]


async def test_dry_run_plans_and_touches_nothing(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params("a", dry_run=True))
    assert info.state is JobState.DONE
    assert info.error == ""
    assert info.plan is not None
    assert info.plan.bytes_to_copy == 10
    assert info.receipt is None
    untouched(world)
    assert "fs.release" not in world.calls
    assert "pair.split" not in world.calls


async def test_a_missing_file_is_named_before_anything_is_touched(kit: Kit, world: World) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params("a", "gone", "x/y"))
    assert (info.state, info.code) == (JobState.FAILED, Code.NOT_FOUND)
    assert "gone, x/y" in info.error
    untouched(world)
    assert "fs.release" not in world.calls


@pytest.mark.parametrize(
    ("local", "remote", "words"),
    [
        (P.PAIR, P.PAIR, "there is no backup"),
        (P.SMPL, P.PAIR, "there is no backup"),
        (P.PSUS, P.PSUE, "needs PAIR or PSUS"),
        (P.PSUS, P.SMPL, "needs PAIR or PSUS"),
    ],
)
async def test_states_that_cannot_be_restored_from(
    kit: Kit, world: World, local: P, remote: P, words: str
) -> None:
    world.local, world.remote = local, remote
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
    assert words in info.error
    assert info.next_step
    assert world.remote is remote


async def test_a_pair_that_was_split_is_restored_through_and_left_split_on_failure(
    kit: Kit, world: World
) -> None:
    world.remote = P.PSUS
    world.faults["copy"] = [HostError("disk died")]
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert info.state is JobState.FAILED
    assert "may hold a part of the files" in info.next_step
    assert world.remote is P.PSUS
    assert world.first_mounted
    assert not world.mounted


RESTORE_MOMENTS = [
    f"step {step} {when}" for step in RESTORE.names for when in ("begins", "ended")
] + [
    "after view.open",
    "after fs.release",
    "after pair.split",
    "before pair.split",
    "before compare",
    "copy 0",
    "before verify",
    "after view.close",
    "before pair.resync",
    "after pair.resync",
    "after fs.reclaim",
    "after mount",
    "after unmount",
]


@pytest.mark.parametrize("moment", RESTORE_MOMENTS)
async def test_restore_killed_at_any_moment_ends_the_same(
    kit: Kit, world: World, moment: str
) -> None:
    world.kill_at = once(moment)
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert kit.lives == 2, "it was killed once"
    restored(world, info)


async def test_restore_killed_at_every_moment_once_ends_the_same(kit: Kit, world: World) -> None:
    seen: set[str] = set()

    def kill(what: str) -> bool:
        first = what not in seen
        seen.add(what)
        return first

    world.kill_at = kill
    restored(world, await kit.run(JobKind.RESTORE, restore_params()))
    assert kit.lives > 30


FAILURES = [
    ("open-view", "view.open"),
    ("mount-view", "mount"),
    ("find", "find"),
    ("release", "fs.release"),
    ("split", "pair.split"),
    ("compare", "compare"),
    ("copy", "copy"),
    ("verify", "verify"),
    ("resync", "pair.resync"),
]


@pytest.mark.parametrize(("step", "what"), FAILURES)
async def test_a_failure_anywhere_before_the_resync_is_undone(
    kit: Kit, world: World, step: str, what: str
) -> None:
    world.faults[what] = [HostError("broken", "mend it")]
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert info.state is JobState.FAILED
    assert info.error == f"{step}: broken"
    assert info.next_step == "mend it"
    assert info.code is Code.HOST_ERROR
    untouched(world)


@pytest.mark.parametrize(("step", "what"), FAILURES)
async def test_an_undo_killed_at_every_moment_still_undoes_everything(
    kit: Kit, world: World, step: str, what: str
) -> None:
    world.faults[what] = [HostError("broken")]
    seen: set[str] = set()

    def kill(moment: str) -> bool:
        first = moment.startswith("undo") and moment not in seen
        seen.add(moment)
        return first

    world.kill_at = kill
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert info.state is JobState.FAILED
    assert kit.lives > 1
    untouched(world)


async def test_an_undo_that_fails_is_tried_again_and_told(kit: Kit, world: World) -> None:
    world.faults["copy"] = [HostError("broken")]
    world.faults["fs.reclaim"] = [HostError("no portal", "look there")] * 20
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert info.state is JobState.FAILED
    assert "undoing 'release' failed: no portal" in info.error
    assert info.next_step == "look there"
    assert not world.views, "the rest was undone all the same"
    assert not world.mounted


async def test_controllers_away_for_a_while_cost_only_time(kit: Kit, world: World) -> None:
    away = [RejectedError(Code.UNREACHABLE, "away") for _ in range(5)]
    for verb in ("pair.split", "pair.resync", "fs.release", "view.open"):
        world.faults[verb] = list(away)
    restored(world, await kit.run(JobKind.RESTORE, restore_params()))


async def test_after_the_reverse_resync_began_only_forward_is_possible(
    kit: Kit, world: World
) -> None:
    world.faults["fs.reclaim"] = [HostError("no portal") for _ in range(3)]
    restored(world, await kit.run(JobKind.RESTORE, restore_params()))


async def test_given_up_after_the_resync_it_says_where_it_stands(kit: Kit, world: World) -> None:
    world.faults["fs.reclaim"] = [HostError("no portal", "look there") for _ in range(30)]
    info = await kit.run(JobKind.RESTORE, restore_params())
    assert (info.state, info.step) == (JobState.FAILED, "reclaim")
    assert "nothing is undone" in info.error
    assert world.first == {"a": "good", "b": "new"}


async def test_a_lost_answer_to_the_resync_is_not_taken_for_a_refusal(
    kit: Kit, world: World
) -> None:
    lost = RejectedError(Code.TIMEOUT, "no answer")
    world.faults["pair.resync"] = [lost] * 3
    restored(world, await kit.run(JobKind.RESTORE, restore_params()))


# ---------------------------------------------------------------- cancelling, one at a time


async def test_cancel_undoes_and_says_so(kit: Kit, world: World) -> None:
    world.hold = asyncio.Event()
    engine = kit.engine()
    info, _ = await engine.begin(JobKind.RESTORE, DATA_SET, "r", restore_params())
    await world.copying.wait()
    with pytest.raises(RejectedError) as caught:
        await engine.begin(JobKind.RESTORE, DATA_SET, "other", restore_params())
    assert caught.value.code is Code.IN_USE
    assert info.id in caught.value.message
    again, new = await engine.begin(JobKind.RESTORE, DATA_SET, "r", restore_params())
    assert (again.id, new) == (info.id, False), "the same request is the same job"
    _, changed = await engine.cancel(info.id)
    assert changed
    ended = await engine.wait(info.id)
    assert ended.state is JobState.CANCELLED
    untouched(world)
    assert await engine.cancel(info.id) == (ended, False)
    with pytest.raises(RejectedError, match="no job"):
        await engine.cancel("restore-none")


async def test_cancel_is_refused_once_only_forward_is_possible(kit: Kit, world: World) -> None:
    engine = kit.engine()
    reached, go = asyncio.Event(), asyncio.Event()
    real = world.pause

    async def pause(seconds: float) -> None:
        reached.set()
        await go.wait()
        await real(seconds)

    world.pause = pause  # type: ignore[method-assign]
    engine = world.engine(kit.directory, kit.blocking)
    info, _ = await engine.begin(JobKind.RESTORE, DATA_SET, "r", restore_params())
    await reached.wait()
    with pytest.raises(RejectedError, match="can only go forward"):
        await engine.cancel(info.id)
    go.set()
    restored(world, await engine.wait(info.id))


async def test_stopping_leaves_the_job_to_the_next_life(kit: Kit, world: World) -> None:
    world.hold = asyncio.Event()
    engine = kit.engine()
    info, _ = await engine.begin(JobKind.RESTORE, DATA_SET, "r", restore_params())
    await world.copying.wait()
    await engine.stop()
    assert world.remote is P.PSUS, "nothing was undone"
    world.hold = None
    engine = kit.engine()
    await engine.load(ALL)
    restored(world, await engine.wait(info.id))


# ---------------------------------------------------------------- backup


@pytest.fixture
def in_sync(world: World) -> World:
    world.local = P.PAIR
    return world


def backed_up(world: World, info: m.JobInfo) -> None:
    assert info.state is JobState.DONE, info
    assert world.third == world.first
    assert world.local is P.PSUS
    assert not world.frozen
    assert world.frozen_at_mark[-1]
    assert info.receipt is not None
    assert info.receipt.label == "monday"


async def test_backup_splits_while_frozen(kit: Kit, in_sync: World) -> None:
    info = await kit.run(JobKind.BACKUP, dict(BACKUP_PARAMS))
    backed_up(in_sync, info)
    assert info.receipt is not None
    assert info.receipt.frozen_s == 0.25
    assert (in_sync.freezes, len(in_sync.frozen_at_mark)) == (1, 1)


async def test_backup_resyncs_an_older_one_before_it_freezes(kit: Kit, world: World) -> None:
    backed_up(world, await kit.run(JobKind.BACKUP, dict(BACKUP_PARAMS)))
    assert world.calls.index("pair.resync") < world.calls.index("freeze")


async def test_backup_without_quiescing_does_not_freeze(kit: Kit, in_sync: World) -> None:
    info = await kit.run(JobKind.BACKUP, {"label": "", "quiesce": False})
    assert info.state is JobState.DONE
    assert in_sync.freezes == 0


@pytest.mark.parametrize("what", ["pair.resync", "freeze", "backup.mark"])
async def test_a_failed_backup_thaws(kit: Kit, world: World, what: str) -> None:
    world.faults[what] = [HostError("broken", "mend it")]
    info = await kit.run(JobKind.BACKUP, dict(BACKUP_PARAMS))
    assert (info.state, info.next_step) == (JobState.FAILED, "mend it")
    assert not world.frozen


async def test_a_freeze_that_ran_out_is_no_quiesced_backup(kit: Kit, in_sync: World) -> None:
    async def expired(data_set: str) -> bool:
        return False

    in_sync.still_frozen = expired  # type: ignore[method-assign]
    info = await kit.run(JobKind.BACKUP, dict(BACKUP_PARAMS))
    assert info.state is JobState.FAILED
    assert "thawed before the split" in info.error


async def test_backup_needs_the_remote_pair_in_pair(kit: Kit, in_sync: World) -> None:
    in_sync.remote = P.PSUS
    info = await kit.run(JobKind.BACKUP, dict(BACKUP_PARAMS))
    assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
    assert "trilun pair resync rp" in info.next_step


@pytest.mark.parametrize(
    "moment",
    [
        f"step {step} {when}"
        for step in ("check", "resync", "freeze", "mark", "thaw", "receipt")
        for when in ("begins", "ended")
    ]
    + ["after backup.mark", "after freeze", "after pair.resync", "after thaw"],
)
async def test_backup_killed_at_any_moment_is_marked_under_a_freeze(
    kit: Kit, world: World, moment: str
) -> None:
    kill = once(moment)

    def kill_and_thaw(what: str) -> bool:
        killed = bool(kill(what))
        if killed:
            world.frozen = False  # the guard thaws when the agent dies
        return killed

    world.kill_at = kill_and_thaw
    info = await kit.run(JobKind.BACKUP, dict(BACKUP_PARAMS))
    assert kit.lives == 2
    backed_up(world, info)
