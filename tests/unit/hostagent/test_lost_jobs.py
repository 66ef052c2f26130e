"""No job vanishes that somebody may have to clean up behind."""

from __future__ import annotations

import asyncio

import pytest

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from hostagent.errors import HostError
from hostagent.jobs import engine as engines
from tests.unit.hostagent.kit import ALL, Kit, once, restore_params
from tests.unit.hostagent.world import DATA_SET, World


async def dead_in(kit: Kit, world: World, moment: str) -> str:
    """A job whose agent has died while the first volume was released."""
    world.kill_at = once(moment)
    engine = kit.engine()
    info, _ = await engine.begin(JobKind.RESTORE, DATA_SET, "request-1", restore_params())
    task = engine._jobs[info.id].task
    assert task is not None
    await asyncio.gather(task, return_exceptions=True)
    assert world.released_for == info.id
    return info.id


async def test_a_record_that_can_not_be_read_is_shown(kit: Kit, world: World) -> None:
    job = await dead_in(kit, world, "after pair.split")
    path = kit.directory / f"{job}.json"
    path.write_bytes(path.read_bytes()[:-20])
    engine = kit.engine()
    await engine.load(ALL)
    (info,) = engine.list_jobs()
    assert engine.show(job) == info == world.states[-1]
    assert (info.id, info.kind, info.state) == (job, JobKind.RESTORE, JobState.FAILED)
    assert "record can't be read" in info.error
    assert f"--job {job}`" in info.next_step
    assert f"remove {path}" in info.next_step
    for command in (engine.cancel, engine.resume):
        with pytest.raises(RejectedError, match="can't be read") as refused:
            await command(job)
        assert refused.value.next_step == info.next_step
    assert path.exists()


async def test_a_job_of_a_renamed_data_set_is_shown_and_gone_on_with(
    kit: Kit, world: World
) -> None:
    job = await dead_in(kit, world, "after pair.split")
    engine = kit.engine()
    await engine.load({"other": DATA_SET.model_copy(update={"name": "other"})})
    info = engine.show(job)
    assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
    assert "data set 'ds' is not in the configuration" in info.error
    assert f"`trilun fs reclaim ds --job {job}`" in info.next_step
    assert world.states[-1] == info
    with pytest.raises(RejectedError, match="not in the configuration"):
        await engine.cancel(job)
    again = kit.engine()
    await again.load(ALL)
    assert (await kit.see_through(again, job)).state is JobState.DONE


async def test_what_has_ended_is_remembered_without_its_data_set(kit: Kit) -> None:
    info = await kit.run(JobKind.RESTORE, restore_params())
    engine = kit.engine()
    await engine.load({})
    assert engine.show(info.id) == info


async def test_a_job_that_can_be_resumed_is_never_forgotten(
    kit: Kit, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "MAX_ENDED", 2)
    world.faults["fs.reclaim"] = [HostError("no portal", "look there")] * 8
    stuck = await kit.run(JobKind.RESTORE, restore_params())
    assert f"trilun job resume {stuck.id}" in stuck.next_step
    engine = kit.engine()
    await engine.load(ALL)
    for number in range(5):
        params = restore_params(dry_run=True)
        info, _ = await engine.begin(JobKind.RESTORE, DATA_SET, f"dry-{number}", params)
        await engine.wait(info.id)
    assert stuck.id in {info.id for info in engine.list_jobs()}
    assert len(engine.list_jobs()) == 4, "two others, and the last that began"
    assert (await engine.resume(stuck.id))[1]
    assert (await engine.wait(stuck.id)).state is JobState.DONE
