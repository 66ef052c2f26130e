"""All data sets of a group go back to one instant, or none of them, wherever the agent dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from controller.api.verbs import VERBS
from hostagent.config import DataSetConfig
from hostagent.jobs.group_restore import GROUP_RESTORE
from tests.integration.backups.kit import BLOCK, S, once
from tests.integration.backups.test_group_backup import FIRSTS, THIRDS, GroupRig, two_chains
from tests.rig import Running, relink, unlinked

REMOTES = {"ds": "remote", "log": "remote-log"}
SECONDS = {"ds": "second", "log": "second-log"}
BROKEN = RejectedError(Code.HOST_ERROR, "broken", "mend it")
Images = dict[str, bytes]


class RestoreRig(GroupRig):
    """Host 1 lets go of each of its data sets on its own."""

    def __init__(self, a: Running, b: Running, members: list[DataSetConfig], jobs: Path) -> None:
        super().__init__(a, b, members, jobs)
        self.released: dict[str, str] = {}
        self.started: list[tuple[str, bool]] = []
        """Data sets whose databases were started, and whether all were mounted then."""

    def _host1(self, verb: str, params: Any) -> m.Info:
        name = params.data_set
        if verb == "fs.release":
            assert self.released.setdefault(name, params.job) == params.job
            self.a.logged_in(FIRSTS[name])
        elif verb == "fs.reclaim":
            assert self.a.pair(REMOTES[name]).state is not S.RCPY, "it is being replaced"
            self.released.pop(name, None)
            self.a.logged_in(FIRSTS[name], "iqn.h1")
        else:
            if verb == "db.recover":
                self.started.append((name, not self.released))
            answer: Any = VERBS[verb].result
            return cast("m.Info", answer(data_set=name))
        mounted = name not in self.released
        return m.HostFs(data_set=name, mounted=mounted, frozen=False, mountpoint=f"/srv/{name}")

    def firsts(self) -> Images:
        return {name: self.a.image(volume) for name, volume in FIRSTS.items()}

    async def back(self, **more: object) -> m.JobInfo:
        """`trilun restore --whole g`."""
        fields: dict[str, object] = {"node": "a", "from_backup": "good", "dry_run": False}
        fields |= {"force": False, "undo": "required", "keep": None, "deadline_s": 3600.0}
        fields["discard_writes"] = True
        return await self.run(JobKind.GROUP_RESTORE, **{**fields, **more})

    async def write_many(self, first: int, last: int) -> None:
        for number in range(first, last):
            await self.write_both(number)


@asynccontextmanager
async def backed_up(directory: Path) -> AsyncIterator[tuple[RestoreRig, Images, Images]]:
    """A backup of both, and writes since: as they were then, and as they are now."""
    async with two_chains(directory) as (a, b, data_sets):
        kit = RestoreRig(a, b, data_sets, directory / "jobs")
        await kit.write_many(1, 20)
        assert (await kit.take("good")).state is JobState.DONE
        images = dict(kit.images)
        await kit.write_many(30, 42)
        try:
            yield kit, images, kit.firsts()
        finally:
            kit.blocking.close()


async def restored(kit: RestoreRig, info: m.JobInfo, images: Images, was: Images) -> None:
    """Both went back; the backups are ones still, and what was overwritten is kept."""
    assert info.state is JobState.DONE, info
    await kit.settled()
    assert kit.firsts() == images
    assert {name: kit.b.image(volume) for name, volume in SECONDS.items()} == images
    assert info.receipt is not None
    for one in info.receipt.restored:
        assert kit.b.image(THIRDS[one.backup_pair]) == images[one.data_set]
        if one.undo_pair:
            assert kit.b.image(THIRDS[one.undo_pair]) == was[one.data_set]
    labels = {"good"} | ({f"before-{info.id}"} if info.receipt.restored[0].undo_pair else set())
    assert await kit.backups() == {(name, label) for name in FIRSTS for label in labels}
    assert not kit.released


async def untouched(kit: RestoreRig, images: Images, was: Images) -> None:
    """Everything is as it was before."""
    await kit.settled()
    assert kit.firsts() == was
    assert {name: kit.b.image(volume) for name, volume in SECONDS.items()} == was
    assert {name: kit.b.image(THIRDS[pair]) for name, pair in GOOD.items()} == images
    assert await kit.backups() == {(name, "good") for name in FIRSTS}
    assert not kit.released


GOOD = {"ds": "local", "log": "log-1"}


@pytest.mark.parametrize("undo", ["required", "never"])
async def test_both_go_back_to_one_instant(tmp_path: Path, undo: str) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        plan = (await kit.back(undo=undo, dry_run=True)).plan
        assert plan is not None
        assert [each.data_set for each in plan.members] == ["ds", "log"]
        assert plan.overwritten_bytes == sum(e.overwritten_bytes for e in plan.members)
        assert plan.overwritten_bytes == 12 * BLOCK
        assert plan.steps == GROUP_RESTORE.names
        await untouched(kit, images, was)
        begun = len(kit.calls)
        info = await kit.back(undo=undo)
        await restored(kit, info, images, was)
        receipt = info.receipt
        assert receipt is not None
        assert receipt.union_bytes == sum(e.union_bytes for e in receipt.restored) == 12 * BLOCK
        assert [one.data_set for one in receipt.restored] == ["ds", "log"]
        assert (receipt.label, receipt.data_set, info.data_sets) == ("good", "g", ["ds", "log"])
        verbs = [verb for verb, _ in kit.calls[begun:]]
        assert verbs.count("group.resync") == 1
        assert verbs.count("group.split" if undo == "never" else "group.mark") == 1
        assert kit.started == [("ds", True), ("log", True)]


MOMENTS = [f"step {step} {when}" for step in GROUP_RESTORE.names for when in ("begins", "ended")]
MOMENTS += [
    f"{when} {verb}"
    for verb in ("fs.release", "group.mark", "backup.settle", "pair.split", "pair.resync")
    for when in ("before", "after")
]
MOMENTS += ["before group.resync", "after group.resync", "before fs.reclaim", "after fs.reclaim"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_at_any_boundary_it_goes_on(tmp_path: Path, moment: str) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.back()
        assert kit.lives == 2
        await restored(kit, info, images, was)


@pytest.mark.parametrize("moment", ["before group.split", "after group.split"])
async def test_killed_around_a_split_without_an_undo_it_goes_on(
    tmp_path: Path, moment: str
) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.back(undo="never")
        assert kit.lives == 2
        await restored(kit, info, images, was)


def failing(kit: RestoreRig, step: str, verb: str, *, second: bool) -> None:
    """Make a command of a step fail: the first one, or that of the second data set."""
    in_step = left = False

    def moment(what: str) -> bool:
        nonlocal in_step, left
        if what == f"step {step} begins":
            in_step, left = True, second
        elif in_step and what == f"before {verb}":
            if not left:
                kit.faults[verb], in_step = [BROKEN], False
            left = False
        return False

    kit.kill_at = moment


FAILING = [
    ("fill-undo", "pair.show", False),
    ("release", "fs.release", False),
    ("release", "fs.release", True),
    ("split", "group.mark", False),
    ("split", "backup.settle", False),
    ("resync-second", "pair.resync", False),
    ("resync-second", "pair.resync", True),
    ("keep", "pair.split", False),
    ("keep", "pair.split", True),
    ("resync", "group.resync", False),
]


@pytest.mark.parametrize(("step", "verb", "second"), FAILING)
async def test_one_that_fails_before_the_barrier_undoes_all(
    tmp_path: Path, step: str, verb: str, second: bool
) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        failing(kit, step, verb, second=second)
        info = await kit.back()
        assert (info.state, info.step) == (JobState.FAILED, "plan"), info
        assert info.error.startswith(f"{step}: ")
        assert "broken" in info.error
        assert info.next_step == "mend it"
        await untouched(kit, images, was)
        kit.kill_at = lambda _: False
        await restored(kit, await kit.back(), images, was)


@pytest.mark.parametrize("undone", ["resync-second", "split", "release", "fill-undo"])
@pytest.mark.parametrize("when", ["begins", "ended"])
async def test_killed_while_it_is_undone_it_is_undone(
    tmp_path: Path, undone: str, when: str
) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        kill = once(f"undo {undone} {when}")
        failing(kit, "keep", "pair.split", second=True)
        fails = kit.kill_at
        kit.lives, kit.kill_at = 0, lambda what: fails(what) or kill(what)
        info = await kit.back()
        assert (info.state, kit.lives) == (JobState.FAILED, 2)
        await untouched(kit, images, was)


@pytest.mark.parametrize("step", ["split", "keep", "resync"])
async def test_what_is_not_ready_by_the_deadline_is_undone(tmp_path: Path, step: str) -> None:
    async with backed_up(tmp_path) as (kit, images, was):

        async def waits() -> None:
            kit.clock.now_s += 601

        kit.meanwhile[f"step {step} begins"] = waits
        info = await kit.back(deadline_s=600.0)
        assert (info.state, info.code) == (JobState.FAILED, Code.TIMEOUT), info
        assert "not all data sets were ready within 600 s" in info.error
        assert "--deadline" in info.next_step
        await untouched(kit, images, was)


async def test_a_step_that_hangs_ends_at_the_deadline(tmp_path: Path) -> None:
    """The answer of one data set never comes; the other has gone as far as it could."""
    async with backed_up(tmp_path) as (kit, images, was):
        look, hanging, hung = kit.call, True, asyncio.Event()

        async def call(node: str, verb: str, params: Any, request_id: str | None) -> m.Info:
            waits = hanging and verb == "pair.show" and kit.b.pair("log-1").state is S.PAIR
            if waits and params.name == "log-1":
                hung.set()
                await asyncio.Event().wait()
            return await look(node, verb, params, request_id)

        async def goes_on() -> None:
            nonlocal hanging
            assert hung.is_set()
            hanging = False

        kit.call = call  # type: ignore[method-assign]
        kit.meanwhile["undo resync-second begins"] = goes_on
        info = await kit.back(deadline_s=2.0)
        assert (info.state, info.code) == (JobState.FAILED, Code.TIMEOUT), info
        await untouched(kit, images, was)


async def test_a_cancelled_one_leaves_nothing(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        engine = kit.engine()
        params: dict[str, Any] = {"node": "a", "from_backup": "", "dry_run": False, "force": False}
        params |= {"undo": "required", "keep": None, "deadline_s": 60.0}
        cancelled: list[asyncio.Task[Any]] = []

        async def cancels() -> None:
            job = next(each for each in engine.list_jobs() if each.state is JobState.RUNNING)
            cancelled.append(asyncio.create_task(engine.cancel(job.id)))
            await asyncio.sleep(0)

        kit.meanwhile["step keep ended"] = cancels
        info, _ = await engine.begin(JobKind.GROUP_RESTORE, kit.members, "r1", params, "g")
        assert (await engine.wait(info.id)).state is JobState.CANCELLED
        await asyncio.gather(*cancelled)
        await untouched(kit, images, was)


async def test_behind_the_barrier_one_that_fails_does_not_stop_the_other(tmp_path: Path) -> None:
    """A host that can't mount one volume: the other comes back, and a command goes on."""
    async with backed_up(tmp_path) as (kit, images, was):
        look = kit._host1

        def host1(verb: str, params: Any) -> m.Info:
            if verb == "fs.reclaim" and params.data_set == "log":
                raise BROKEN
            return look(verb, params)

        kit._host1 = host1  # type: ignore[method-assign]
        info = await kit.back()
        assert (info.state, info.step) == (JobState.FAILED, "reclaim"), info
        assert "'log': broken" in info.error
        assert info.next_step == f"mend it; then go on with `trilun job resume {info.id}`"
        assert kit.firsts() == images
        assert kit.released == {"log": info.id}
        kit._host1 = look  # type: ignore[method-assign]
        engine = kit.engine()
        await engine.load({entry.name: entry for entry in kit.members})
        resyncs = sum(verb.endswith("resync") for verb, _ in kit.calls)
        await engine.resume(info.id)
        await restored(kit, await engine.wait(info.id), images, was)
        assert sum(verb.endswith("resync") for verb, _ in kit.calls) == resyncs


@pytest.mark.parametrize(
    "moment",
    ["step reclaim begins", "before fs.reclaim", "after fs.reclaim", "step databases begins"],
)
async def test_a_job_that_is_gone_on_with_and_killed_goes_on(tmp_path: Path, moment: str) -> None:
    """The life after the next one, too, does what is left and nothing again."""
    async with backed_up(tmp_path) as (kit, images, was):
        kit.faults["fs.reclaim"] = [BROKEN] * 16
        info = await kit.back()
        assert (info.state, info.step) == (JobState.FAILED, "reclaim"), info
        data_sets = {entry.name: entry for entry in kit.members}
        kit.kill_at = once(moment)
        engine = kit.engine()
        await engine.load(data_sets)
        resyncs = sum(verb.endswith("resync") for verb, _ in kit.calls)
        await engine.resume(info.id)
        await kit.died.wait()
        await engine.stop()
        engine = kit.engine()
        await engine.load(data_sets)
        await restored(kit, await engine.wait(info.id), images, was)
        assert sum(verb.endswith("resync") for verb, _ in kit.calls) == resyncs


@pytest.mark.parametrize("moment", ["before group.resync", "after group.resync"])
async def test_a_link_that_breaks_at_the_barrier_undoes_all_or_none(
    tmp_path: Path, moment: str
) -> None:
    async with backed_up(tmp_path) as (kit, images, was):

        async def breaks() -> None:
            await unlinked(kit.a, kit.b)
            await relink(kit.a, kit.b)

        kit.meanwhile[moment] = breaks
        info = await kit.back()
        await restored(kit, info, images, was)


@pytest.mark.parametrize("copied", [False, True])
async def test_where_one_copy_back_has_begun_only_forward_is_possible(
    tmp_path: Path, copied: bool
) -> None:
    """The primary failed between the two: what it has begun can't be undone, so both go on."""
    async with backed_up(tmp_path) as (kit, images, was):

        async def begins_one() -> None:
            params = m.PairResync(name="remote", direction=m.Direction.REVERSE)
            await kit.a.do("pair.resync", params)
            if copied:
                await kit.a.until("remote", S.PAIR)
            kit.faults["group.resync"] = [BROKEN]

        kit.meanwhile["before group.resync"] = begins_one
        await restored(kit, await kit.back(), images, was)
        assert [verb for verb, _ in kit.calls].count("group.resync") == 1


async def test_where_a_host_has_logged_in_again_none_is_overwritten(tmp_path: Path) -> None:
    """The controller refuses all copies back, so nothing was begun and all is undone."""
    async with backed_up(tmp_path) as (kit, images, was):

        async def logs_in() -> None:
            kit.a.logged_in("first-log", "iqn.other")

        kit.meanwhile["before group.resync"] = logs_in
        info = await kit.back()
        assert (info.state, info.code) == (JobState.FAILED, Code.IN_USE), info
        await untouched(kit, images, was)


@pytest.mark.parametrize("for_ever", [False, True])
async def test_a_volume_that_a_database_of_another_holds_is_let_go_behind_it(
    tmp_path: Path, for_ever: bool
) -> None:
    """Its files are on one data set, and its log is on the other: no order of names fits all."""
    async with backed_up(tmp_path) as (kit, images, was):
        look = kit._host1

        def host1(verb: str, params: Any) -> m.Info:
            held = for_ever or "log" not in kit.released
            if verb == "fs.release" and params.data_set == "ds" and held:
                raise RejectedError(Code.IN_USE, "/srv/ds is in use by postgres", "stop it")
            return look(verb, params)

        kit._host1 = host1  # type: ignore[method-assign]
        info = await kit.back()
        if for_ever:
            assert (info.state, info.code) == (JobState.FAILED, Code.IN_USE), info
            assert "'ds': /srv/ds is in use by postgres" in info.error
            await untouched(kit, images, was)
        else:
            await restored(kit, info, images, was)


async def test_pairs_that_were_split_are_left_so_where_it_fails(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (kit, _, _):
        await kit.a.do("group.split", m.GroupSplit(name="g", label="apart"))
        await kit.write_many(60, 66)
        now = kit.firsts()
        failing(kit, "keep", "pair.split", second=True)
        info = await kit.back(undo="never")
        assert (info.state, info.step) == (JobState.FAILED, "plan"), info
        for pair in REMOTES.values():
            assert f"`trilun pair resync {pair} --forward`" in info.next_step
        assert info.next_step.startswith("mend it; ")
        assert kit.firsts() == now
        labels = [(kit.a.pair(p).state, kit.a.pair(p).split_label) for p in REMOTES.values()]
        assert labels == [(S.PSUS, "apart")] * 2
        assert not kit.released


async def test_an_undo_brings_both_back(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        info = await kit.back()
        await restored(kit, info, images, was)
        await kit.write_many(50, 54)
        label = f"before-{info.id}"
        undone = await kit.back(from_backup=label, undo="never", undoes=info.id)
        assert undone.state is JobState.DONE, undone
        await kit.settled()
        assert kit.firsts() == was
        assert await kit.backups() == {(n, one) for n in FIRSTS for one in ("good", label)}


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("label", Code.NOT_FOUND, "'ds' has no backup 'sunday'"),
        ("slots", Code.WRONG_STATE, "'log': no backup slot is free"),
        ("split", Code.WRONG_STATE, "some pairs of group 'g' are split, the others are not"),
        ("both split", Code.WRONG_STATE, "what is overwritten can't be kept"),
        ("group", Code.WRONG_STATE, "has other pairs now"),
    ],
)
async def test_what_cannot_be_planned_for_all_is_refused(
    tmp_path: Path, what: str, code: Code, says: str
) -> None:
    async with backed_up(tmp_path) as (kit, _, was):
        if what == "slots":
            await kit.b.do("pair.split", m.PairSplit(name="log-2", label="x", number=9))
        if what.endswith("split"):
            for pair in ("remote", "remote-log")[: 2 if what == "both split" else 1]:
                await kit.a.do("pair.split", m.PairSplit(name=pair))
        if what == "group":
            await kit.a.do("group.delete", m.Named(name="g"))
            await kit.a.do("group.create", m.GroupCreate(name="g", pairs=["remote"]))
        begun = len(kit.calls)
        info = await kit.back(from_backup="sunday" if what == "label" else "good")
        assert (info.state, info.code, info.step) == (JobState.FAILED, code, "plan"), info
        assert says in info.error
        assert info.next_step
        looked = {verb for verb, _ in kit.calls[begun:]}
        assert looked <= {"pair.show", "volume.show", "group.show"}
        assert kit.firsts() == was


async def test_writes_behind_a_split_are_lost_only_where_that_is_allowed(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (kit, _images, _was):
        await kit.a.do("group.split", m.GroupSplit(name="g"))
        await kit.write_many(60, 66)
        was, before = kit.firsts(), len(kit.calls)
        asked = {"undo": "never", "discard_writes": False}
        info = await kit.back(**asked)
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert "without --discard-writes: " in info.error
        assert "'first'" in info.error
        assert "'first-log'" in info.error
        assert "`trilun group resync g --forward`" in info.next_step
        changing = {"fs.release", "group.split", "pair.split", "pair.resync", "group.resync"}
        assert not changing & {verb for verb, _ in kit.calls[before:]}
        assert kit.firsts() == was
        planned = (await kit.back(**asked, dry_run=True)).plan
        assert planned is not None
        assert planned.needs.startswith("--discard-writes: ")
        assert planned.discarded_bytes > 0


async def test_pairs_that_were_split_are_restored_through(tmp_path: Path) -> None:
    async with backed_up(tmp_path) as (kit, images, was):
        await kit.a.do("group.split", m.GroupSplit(name="g"))
        await kit.write_many(60, 66)
        info = await kit.back(undo="never")
        assert info.plan is not None
        assert info.plan.starting_point == "split"
        await restored(kit, info, images, was)
