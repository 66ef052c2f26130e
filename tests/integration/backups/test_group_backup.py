"""A backup of two data sets: both hold one instant, or neither has a backup of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from hostagent.config import DataSetConfig
from hostagent.jobs.group_backup import GROUP_BACKUP
from hostagent.jobs.survey import survey
from tests.integration.backups.kit import BLOCK, BLOCKS, SIZE, Rig, S, data_set, once
from tests.rig import Running, chain, eventually, relink, two_nodes, unlinked, write

FIRSTS = {"ds": "first", "log": "first-log"}
THIRDS = {"local": "third", "local-2": "third-2", "log-1": "log-1", "log-2": "log-2"}


class GroupRig(Rig):
    """Host 1 with two data sets, and the group of both."""

    def __init__(self, a: Running, b: Running, members: list[DataSetConfig], jobs: Path) -> None:
        super().__init__(a, b, members[0], jobs)
        self.members = members
        self.still: set[str] = set()
        self.images: dict[str, bytes] = {}
        """The first volumes while the file systems stood still."""
        a.logged_in("first-log", "iqn.h1")

    async def freeze(self, wanted: dict[str, float]) -> dict[str, list[Any]]:
        assert wanted == {"ds": 7.5, "log": 5.0}, "as it is configured"
        self.still = set(wanted)
        self.images = {name: self.a.image(FIRSTS[name]) for name in wanted}
        await self.moment("after freeze")
        return {name: [] for name in wanted}

    async def still_frozen(self, data_set: str) -> bool:
        return data_set in self.still

    async def thaw(self, data_set: str) -> float:
        was = data_set in self.still
        self.still.discard(data_set)
        return 0.5 if was else 0.0

    def guard_thaws(self) -> None:
        self.still.clear()

    async def take(self, label: str, **more: object) -> m.JobInfo:
        """`trilun backup g`."""
        fields: dict[str, object] = {"label": label, "quiesce": True, "keep": None}
        fields |= {"node": "a", "split_remote": False, "deadline_s": None}
        return await self.run(JobKind.GROUP_BACKUP, **{**fields, **more})

    async def write_both(self, number: int) -> None:
        """A numbered write, to one volume and the other in turns."""
        data = number.to_bytes(8, "big") * (BLOCK // 8)
        volume = self.a.volume(("first", "first-log")[number % 2])
        await write(volume, number // 2 % BLOCKS * BLOCK, data)

    async def backups(self) -> set[tuple[str, str]]:
        """Every backup there is: data set and label."""
        return {
            (entry.name, slot.label)
            for entry in self.members
            for slot in await survey(self, entry)
            if slot.is_backup
        }

    async def settled(self) -> None:
        """Wait until no pair is on its way, and the remote ones mirror."""
        for pair in ("remote", "remote-log"):
            await self.a.until(pair, S.PAIR)
            await self.b.until(pair, S.PAIR)
        for pair in THIRDS:
            held = self.b.pair(pair)
            if not (held.state is S.PSUS and not held.guarded):
                await self.b.until(pair, S.PAIR)


async def another_chain(a: Running, b: Running) -> None:
    """A second chain with two thirds, and a second third of the first one."""
    await a.do("volume.create", m.VolumeCreate(name="first-log", size_bytes=SIZE))
    for name in ("second-log", "log-1", "log-2", "third-2"):
        await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
    remote = {"p_volume": "first-log", "s_volume": "second-log", "peer": "b"}
    params = m.PairCreate.model_validate(
        {"name": "remote-log", "kind": m.PairKind.REMOTE, **remote}
    )
    await a.do("pair.create", params)
    await b.until("remote-log", S.PAIR)
    for name, second, third in (
        ("local-2", "second", "third-2"),
        ("log-1", "second-log", "log-1"),
        ("log-2", "second-log", "log-2"),
    ):
        local = m.PairCreate(name=name, kind=m.PairKind.LOCAL, p_volume=second, s_volume=third)
        await b.do("pair.create", local)
        await b.until(name, S.PAIR)
    await a.until("remote-log", S.PAIR)
    await a.do("group.create", m.GroupCreate(name="g", pairs=["remote", "remote-log"]))


def both() -> list[DataSetConfig]:
    """The data sets of both chains, with two slots each."""
    one = data_set(("third", "local"), ("third-2", "local-2"))
    log = data_set(("log-1", "log-1"), ("log-2", "log-2")).model_copy(
        update={
            "name": "log",
            "first": "first-log",
            "remote_pair": "remote-log",
            "second": "second-log",
            "mountpoint": Path("/srv/log"),
            "freeze_ttl_s": 5.0,
        }
    )
    return [one, log]


@asynccontextmanager
async def two_chains(
    directory: Path,
) -> AsyncIterator[tuple[Running, Running, list[DataSetConfig]]]:
    """Both controllers, and the data sets of the group."""
    async with two_nodes(directory) as (a, b):
        await chain(a, b, SIZE)
        await another_chain(a, b)
        yield a, b, both()


@asynccontextmanager
async def group_rig(directory: Path) -> AsyncIterator[GroupRig]:
    async with two_chains(directory) as (a, b, data_sets):
        kit = GroupRig(a, b, data_sets, directory / "jobs")
        try:
            yield kit
        finally:
            kit.blocking.close()


def held(kit: GroupRig, info: m.JobInfo) -> dict[str, bytes]:
    """What the third volumes of a backup hold, by data set."""
    assert info.state is JobState.DONE, info
    assert info.receipt is not None
    members = {member.data_set: member.pair for member in info.receipt.members}
    assert members.keys() == FIRSTS.keys()
    return {name: kit.b.image(THIRDS[pair]) for name, pair in members.items()}


@pytest.mark.parametrize("split_remote", [False, True])
async def test_what_both_hold_is_the_order_of_writes_up_to_one(
    tmp_path: Path, split_remote: bool
) -> None:
    async with group_rig(tmp_path) as kit:
        written, stopping = 0, False

        async def load() -> None:
            nonlocal written
            while not stopping:
                await kit.write_both(written + 1)
                written += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(load())
        for label in ("one",) if split_remote else ("one", "two", "three"):
            await eventually(lambda seen=written: written > seen + 60)  # type: ignore[misc]
            before = written
            info = await kit.take(label, quiesce=False, split_remote=split_remote)
            images = held(kit, info)
            numbers = {
                int.from_bytes(image[at : at + 8], "big")
                for image in images.values()
                for at in range(0, SIZE, BLOCK)
            }
            newest = max(numbers)
            assert before <= newest <= written + 1
            expected = {name: bytearray(SIZE) for name in FIRSTS}
            for number in range(1, newest + 1):
                at = number // 2 % BLOCKS * BLOCK
                data = number.to_bytes(8, "big") * (BLOCK // 8)
                expected[("ds", "log")[number % 2]][at : at + BLOCK] = data
            for name, image in images.items():
                assert image == bytes(expected[name]), (name, label)
        stopping = True
        await task
        remote = S.PSUS if split_remote else S.PAIR
        assert {kit.a.pair(pair).state for pair in ("remote", "remote-log")} == {remote}
        if not split_remote:
            labels = {(name, label) for name in FIRSTS for label in ("two", "three")}
            assert await kit.backups() == labels, "the oldest made room for the third"


@pytest.mark.parametrize("split_remote", [False, True])
@pytest.mark.parametrize(
    "moment",
    [f"step {step} {when}" for step in GROUP_BACKUP.names for when in ("begins", "ended")]
    + [f"{when} {verb}" for verb in ("group.mark", "backup.settle") for when in ("before", "after")]
    + ["after freeze", "after pair.resync"],
)
async def test_killed_at_any_boundary_the_mark_hits_both_freezes(
    tmp_path: Path, moment: str, split_remote: bool
) -> None:
    async with group_rig(tmp_path) as kit:
        for number in range(1, 3):
            assert (await kit.take(f"old {number}")).state is JobState.DONE
            await kit.write_both(number)
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.take("new", split_remote=split_remote)
        assert kit.lives == 2
        assert held(kit, info) == kit.images
        assert not kit.still
        assert await kit.backups() == {(n, label) for n in FIRSTS for label in ("old 2", "new")}
        assert (kit.a.pair("remote-log").state is S.PSUS) == split_remote


@pytest.mark.parametrize("split_remote", [False, True])
@pytest.mark.parametrize("what", ["slot", "thawed", "cut under the mark", "cut before it is kept"])
async def test_where_one_fails_neither_has_a_backup(
    tmp_path: Path, what: str, split_remote: bool
) -> None:
    async with group_rig(tmp_path) as kit:
        assert (await kit.take("good")).state is JobState.DONE
        for number in range(1, 9):
            await kit.write_both(number)

        async def fails() -> None:
            if what == "slot":
                await kit.b.do("pair.split", m.PairSplit(name="log-2"))
            elif what == "thawed":
                kit.still.discard("log")
            elif what == "cut under the mark":
                kit.a.cut_link()
            else:
                await unlinked(kit.a, kit.b)
                await relink(kit.a, kit.b)
                if not split_remote:
                    for pair in ("remote", "remote-log"):
                        await kit.b.until(pair, S.PAIR)

        at = "before group.mark" if what in ("slot", "cut under the mark") else "after group.mark"
        kit.meanwhile[at] = fails
        info = await kit.take("bad", split_remote=split_remote)
        if what == "cut before it is kept" and split_remote:
            # Nothing was on its way any more.
            assert info.state is JobState.DONE, info
            return
        assert info.state is JobState.FAILED, info
        words = {
            "slot": "'log-2'",
            "thawed": "'log' thawed before all were split: by itself after 5 s",
            "cut under the mark": "went away",
            "cut before it is kept": "that instant",
        }
        assert words[what] in info.error
        assert info.next_step
        if what == "slot":
            await kit.b.do("pair.resync", m.PairResync(name="log-2"))
        await kit.settled()
        assert await kit.backups() == {("ds", "good"), ("log", "good")}
        assert not kit.still
        for number in range(9, 12):
            await kit.write_both(number)
        again = await kit.take("again")
        assert held(kit, again) == kit.images


async def test_the_deadline_is_the_shortest_freeze_or_the_operators(tmp_path: Path) -> None:
    async with group_rig(tmp_path) as kit:
        await kit.take("one")
        await kit.take("two", quiesce=False)
        await kit.take("three", deadline_s=2.5)
        asked = [params for verb, params in kit.calls if verb == "group.mark"]
        assert [params.deadline_s for params in asked if isinstance(params, m.GroupMark)] == [
            5.0, 30.0, 2.5,
        ]  # fmt: skip


async def test_one_data_set_of_it_is_taken_as_well(tmp_path: Path) -> None:
    """While the group's job runs no job of a single data set begins, nor the other way round."""
    async with group_rig(tmp_path) as kit:
        engine = kit.engine()
        params: dict[str, Any] = {"label": "", "quiesce": False, "keep": None, "node": "a"}
        params |= {"split_remote": False, "deadline_s": None}
        info, _ = await engine.begin(JobKind.GROUP_BACKUP, kit.members, "r1", params, "g")
        with pytest.raises(RejectedError, match="is working on 'log'") as caught:
            await engine.begin(JobKind.BACKUP, kit.members[1], "r2", params)
        assert caught.value.code is Code.IN_USE
        await engine.wait(info.id)
        single, _ = await engine.begin(JobKind.BACKUP, kit.members[1], "r3", params)
        with pytest.raises(RejectedError, match="is working on 'log'"):
            await engine.begin(JobKind.GROUP_BACKUP, kit.members, "r4", params, "g")
        await engine.wait(single.id)
        shown = engine.show(info.id)
        assert (shown.data_set, shown.data_sets, shown.state) == ("g", ["ds", "log"], JobState.DONE)


async def test_half_of_what_is_kept_cannot_be_undone(tmp_path: Path) -> None:
    async with group_rig(tmp_path) as kit:
        engine = kit.engine()
        params: dict[str, Any] = {"label": "whole", "quiesce": True, "keep": None, "node": "a"}
        params |= {"split_remote": False, "deadline_s": None}
        refusals: list[RejectedError] = []

        async def cancels() -> None:
            with pytest.raises(RejectedError) as caught:
                await engine.cancel(engine.list_jobs()[0].id)
            refusals.append(caught.value)

        kit.meanwhile["step receipt begins"] = cancels
        info, _ = await engine.begin(JobKind.GROUP_BACKUP, kit.members, "r1", params, "g")
        assert (await engine.wait(info.id)).state is JobState.DONE
        assert [each.code for each in refusals] == [Code.WRONG_STATE]
        assert await kit.backups() == {("ds", "whole"), ("log", "whole")}


@pytest.mark.parametrize("step", ["resync", "freeze", "mark", "thaw"])
async def test_a_cancelled_one_leaves_nothing(tmp_path: Path, step: str) -> None:
    async with group_rig(tmp_path) as kit:
        await kit.take("good")
        await kit.write_both(1)
        engine = kit.engine()
        params: dict[str, Any] = {"label": "bad", "quiesce": True, "keep": None, "node": "a"}
        params |= {"split_remote": False, "deadline_s": None}
        tasks: list[asyncio.Task[Any]] = []

        async def cancels() -> None:
            job = next(each for each in engine.list_jobs() if each.state is JobState.RUNNING)
            tasks.append(asyncio.create_task(engine.cancel(job.id)))
            await asyncio.sleep(0)

        kit.meanwhile[f"step {step} ended"] = cancels
        info, _ = await engine.begin(JobKind.GROUP_BACKUP, kit.members, "r1", params, "g")
        assert (await engine.wait(info.id)).state is JobState.CANCELLED
        await asyncio.gather(*tasks)
        await kit.settled()
        assert await kit.backups() == {("ds", "good"), ("log", "good")}
        assert not kit.still
