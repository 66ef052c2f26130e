"""A disk that refuses a job's record: the job waits, says so, and can be gone on with."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from hostagent.jobs.engine import JobEngine
from hostagent.jobs.whole import WHOLE
from hostagent.records import RecordStore
from tests.integration.backups.kit import Rig, rig
from tests.integration.backups.test_whole import backed_up, restored, untouched

PARAMS: dict[str, Any] = {
    "from_backup": "",
    "dry_run": False,
    "force": False,
    "undo": "never",
}


class Disk:
    """The file system of the agent's state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full: Callable[[], bool] = lambda: False
        self.refused = 0
        save = RecordStore.save

        def saved(store: RecordStore, name: str, body: dict[str, Any]) -> None:
            if self.is_full():
                self.refused += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            save(store, name, body)

        monkeypatch.setattr(RecordStore, "save", saved)

    def refuse(self, count: int) -> None:
        """The next saves fail."""
        until = self.refused + count
        self.is_full = lambda: self.refused < until

    def fill(self) -> None:
        """Every save fails."""
        self.is_full = lambda: True


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def at(kit: Rig, moment: str, then: Callable[[], None]) -> None:
    async def now() -> None:
        then()

    kit.meanwhile[moment] = now


async def begun(kit: Rig) -> tuple[JobEngine, str]:
    engine = kit.engine()
    info, _ = await engine.begin(JobKind.WHOLE, [kit.config], "request", PARAMS)
    return engine, info.id


@pytest.mark.parametrize("step", WHOLE.names)
async def test_a_save_that_fails_once_is_done_again(tmp_path: Path, disk: Disk, step: str) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        at(kit, f"step {step} ended", lambda: disk.refuse(3))
        await restored(kit, image, await kit.restore())
        assert disk.refused == 3
        waiting = [info for info in kit.states if "can't be saved" in info.message]
        assert waiting
        assert all("No space left" in info.message for info in waiting)
        assert all(f"make room in {kit.directory}" in info.message for info in waiting)


async def standing_still(kit: Rig, disk: Disk, moment: str) -> tuple[JobEngine, m.JobInfo]:
    at(kit, moment, disk.fill)
    engine, job = await begun(kit)
    info = await engine.wait(job)
    assert info.state is JobState.FAILED
    assert "No space left" in info.error
    assert f"`trilun job resume {job}`" in info.next_step
    assert kit.states[-1] == info
    with pytest.raises(RejectedError) as refused:
        await engine.begin(JobKind.WHOLE, [kit.config], "another", PARAMS)
    assert f"`trilun job resume {job}`" in refused.value.next_step
    disk.refuse(0)
    return engine, info


@pytest.mark.parametrize("step", ["plan", "release", "split", "keep", "resync", "receipt"])
async def test_a_job_that_stands_still_is_gone_on_with(
    tmp_path: Path, disk: Disk, step: str
) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        engine, info = await standing_still(kit, disk, f"step {step} ended")
        assert (await engine.resume(info.id))[1]
        await restored(kit, image, await engine.wait(info.id))


@pytest.mark.parametrize("step", ["plan", "release", "split"])
async def test_a_job_that_stands_still_is_undone(tmp_path: Path, disk: Disk, step: str) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")
        engine, info = await standing_still(kit, disk, f"step {step} ended")
        assert (await engine.cancel(info.id))[1]
        assert (await engine.wait(info.id)).state is JobState.CANCELLED
        await untouched(kit, now, image)


async def test_an_undo_that_stands_still_is_gone_on_with(tmp_path: Path, disk: Disk) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")

        def broken() -> None:
            kit.faults["pair.split"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]

        at(kit, "step keep begins", broken)
        engine, info = await standing_still(kit, disk, "undo split ended")
        assert (await engine.cancel(info.id))[1]
        assert (await engine.wait(info.id)).state is JobState.FAILED
        await untouched(kit, now, image)


async def test_a_resume_that_can_not_be_saved_changes_nothing(tmp_path: Path, disk: Disk) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.faults["fs.reclaim"] = [
            RejectedError(Code.HOST_ERROR, "no such device", "mend it") for _ in range(8)
        ]
        engine, job = await begun(kit)
        info = await engine.wait(job)
        assert info.state is JobState.FAILED
        disk.fill()
        with pytest.raises(RejectedError, match="No space left"):
            await engine.resume(job)
        assert engine.show(job) == info
        disk.refuse(0)
        await engine.resume(job)
        await restored(kit, image, await engine.wait(job))
