"""The agent answers every verb of its kind, and refuses what is another host's part."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.verbs import VERBS
from controller.service.bus import Answer
from hostagent.agent import Agent
from hostagent.config import AgentConfig
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.looking.desk import LookDesk
from hostagent.looking.first import FirstFiles
from hostagent.looking.verbs import LookVerbs
from hostagent.programs import Blocking
from hostagent.recovery.keeper import DatabaseKeeper
from tests.unit.hostagent.world import DATA_SET, World


class Kit:
    def __init__(self, directory: Path) -> None:
        self.blocking = Blocking(2)
        self.world = World()
        config = AgentConfig(
            node="h2", state_dir=directory, runtime_dir=directory, data_set=[DATA_SET]
        )
        first = cast("FirstVolumeKeeper", None)
        databases = cast("DatabaseKeeper", None)
        self.jobs = self.world.engine(directory / "jobs", self.blocking)
        rooms = self.world.rooms
        desk = LookDesk(rooms, self.blocking, self.world)
        looking = LookVerbs(FirstFiles(first, self.blocking), desk, rooms, self.jobs)
        self.agent = Agent(config, first, databases, self.jobs, self.world, looking)

    async def ask(self, verb: str, **params: Any) -> Answer:
        model = VERBS[verb].params.model_validate(params)
        return await self.agent.handle(VERBS[verb], model, m.Request(id="req-1", params=params))


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_every_verb_of_agents_is_answered(kit: Kit) -> None:
    assert kit.agent.verbs == {v.name for v in VERBS.values() if v.kind is m.NodeKind.AGENT}


async def test_a_restore_asked_twice_is_one_job(kit: Kit) -> None:
    one = await kit.ask("job.restore", data_set="ds", paths=["a"])
    two = await kit.ask("job.restore", data_set="ds", paths=["a"])
    assert (one.verdict, two.verdict) == (Verdict.ACCEPTED, Verdict.NO_OP)
    assert isinstance(one.result, m.JobInfo)
    ended = await kit.jobs.wait(one.result.id)
    assert ended.state is m.JobState.DONE
    shown = await kit.ask("job.show", name=ended.id)
    assert shown.result == ended
    listed = await kit.ask("job.list")
    assert listed.result == m.JobList(jobs=[ended])
    cancelled = await kit.ask("job.cancel", name=ended.id)
    assert cancelled.verdict is Verdict.NO_OP


async def test_what_is_not_kept_is_not_undone_and_dropping_it_is_a_no_op(kit: Kit) -> None:
    job = "whole-0123456789"
    for verb in ("job.undo", "undo.drop"):
        with pytest.raises(RejectedError) as caught:
            await kit.ask(verb, data_set="ds")
        assert caught.value.code is Code.NOT_FOUND
    dropped = await kit.ask("undo.drop", data_set="ds", job=job)
    assert (dropped.verdict, dropped.message) == (Verdict.NO_OP, f"nothing is kept of {job}")
    assert "pair.resync" not in kit.world.calls


async def test_an_undo_is_dropped_once_no_job_reads_it(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, real = "whole-0123456789", kit.world._pair
    label = {"split_label": f"before-{job}"}
    monkeypatch.setattr(kit.world, "_pair", lambda *of: real(*of).model_copy(update=label))
    kit.world.hold = asyncio.Event()
    begun = await kit.ask("job.restore", data_set="ds", paths=["a"], from_backup="lp")
    assert isinstance(begun.result, m.JobInfo)
    with pytest.raises(RejectedError) as caught:
        await kit.ask("undo.drop", data_set="ds")
    assert caught.value.code is Code.IN_USE
    kit.world.hold.set()
    assert (await kit.jobs.wait(begun.result.id)).state is m.JobState.DONE
    dropped = await kit.ask("undo.drop", data_set="ds")
    assert (dropped.verdict, dropped.message) == (Verdict.ACCEPTED, "'lp' is free")
    assert isinstance(dropped.result, m.BackupList)
    assert [slot.undo_of for slot in dropped.result.backups] == [""]


async def test_what_is_another_hosts_part_is_refused_with_its_name(kit: Kit) -> None:
    with pytest.raises(RejectedError) as caught:
        await kit.ask("job.backup", data_set="ds")
    assert (caught.value.code, caught.value.next_step) == (Code.WRONG_STATE, "ask h1")
    with pytest.raises(RejectedError) as caught:
        await kit.ask("job.restore", data_set="none", paths=["a"])
    assert caught.value.code is Code.NOT_FOUND


async def test_a_group_is_restored_by_the_host_2_that_has_all_of_it(kit: Kit) -> None:
    """A repeated request is the same job; a group of more than this host has begins none."""
    kit.world.groups["shop"] = ["rp"]
    one = await kit.ask("job.restore_group", group="shop", node="c1", undo="never", dry_run=True)
    two = await kit.ask("job.restore_group", group="shop", node="c1", undo="never", dry_run=True)
    assert (one.verdict, two.verdict) == (Verdict.ACCEPTED, Verdict.NO_OP)
    assert isinstance(one.result, m.JobInfo)
    ended = await kit.jobs.wait(one.result.id)
    assert (ended.kind, ended.data_set, ended.data_sets) == (
        m.JobKind.GROUP_RESTORE,
        "shop",
        ["ds"],
    )
    kit.world.groups["more"] = ["rp", "other"]
    with pytest.raises(RejectedError, match="of no data set of 'h2': other") as caught:
        await kit.ask("job.restore_group", group="more", node="c1")
    assert "restore each on its own" in caught.value.next_step
    assert len(kit.jobs.list_jobs()) == 1


@pytest.mark.parametrize("undo", [None, "required", "never"])
async def test_a_whole_volume_is_kept_unless_that_is_given_up(kit: Kit, undo: str | None) -> None:
    """The one slot holds the backup that is restored, so there is none for what is overwritten."""
    begun = await kit.ask("job.restore", data_set="ds", whole=True, dry_run=True, undo=undo)
    assert isinstance(begun.result, m.JobInfo)
    ended = await kit.jobs.wait(begun.result.id)
    if undo == "never":
        assert ended.state is m.JobState.DONE, ended
    else:
        assert (ended.state, ended.code) == (m.JobState.FAILED, Code.WRONG_STATE)
        assert "--no-undo" in ended.next_step
