"""Whatever breaks at whatever boundary of a group's restore: all went back, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.messages import JobState
from hostagent.jobs.group_restore import GROUP_RESTORE
from tests.integration.backups.test_group_restore import BROKEN, restored, untouched
from tests.integration.boundaries.kit import (
    EVERYTHING,
    LATE_S,
    BreakingRestore,
    What,
    breaking_restore,
)
from tests.integration.boundaries.test_restores import COPY_BACK, MARK, cases

Images = dict[str, bytes]
MOMENTS = [f"step {step} begins" for step in GROUP_RESTORE.names] + COPY_BACK + MARK


async def backed_up(kit: BreakingRestore) -> tuple[Images, Images]:
    """A backup of both, and writes since: as they were then, and as they are now."""
    for number in range(1, 20):
        await kit.write_both(number)
    assert (await kit.take("good")).state is JobState.DONE
    images = dict(kit.images)
    for number in range(30, 42):
        await kit.write_both(number)
    return images, kit.firsts()


async def judged(kit: BreakingRestore, info: m.JobInfo, images: Images, was: Images) -> None:
    """What was given up where only forward is possible names the one command that goes on."""
    assert not kit.at, f"it never came to that: {kit.moments}"
    await kit.at_rest()
    if info.state is JobState.FAILED and "nothing is undone" in info.error:
        assert f"trilun job resume {info.id}" in info.next_step
        engine = kit.engine()
        await engine.load({each.name: each for each in kit.members})
        await engine.resume(info.id)
        info = await engine.wait(info.id)
        assert info.state is JobState.DONE, info
    if info.state is JobState.DONE:
        await restored(kit, info, images, was)
    else:
        assert info.next_step
        assert "undoing" not in info.error
        await untouched(kit, images, was)


@pytest.mark.parametrize(("moment", "what", "away_s"), cases(MOMENTS))
async def test_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: What, away_s: float
) -> None:
    async with breaking_restore(tmp_path, monkeypatch) as kit:
        images, was = await backed_up(kit)
        kit.at, kit.what, kit.away_s = moment, what, away_s
        await judged(kit, await kit.back(), images, was)


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("step", ["resync-second", "split", "release", "fill-undo"])
async def test_a_group_that_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, what: What
) -> None:
    async with breaking_restore(tmp_path, monkeypatch) as kit:
        images, was = await backed_up(kit)

        async def fail() -> None:
            kit.faults["pair.split"] = [BROKEN]

        kit.meanwhile["step keep begins"] = fail
        kit.at, kit.what, kit.away_s = f"undo {step} begins", what, LATE_S
        info = await kit.back()
        assert info.state is JobState.FAILED
        await judged(kit, info, images, was)
