"""Whatever breaks at whatever boundary of a backup: there is a whole one, or none and a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api.messages import JobState
from hostagent.jobs.backup import BACKUP
from hostagent.jobs.group_backup import GROUP_BACKUP
from hostagent.jobs.survey import survey
from tests.integration.backups.kit import S
from tests.integration.backups.test_group_backup import held
from tests.integration.boundaries.kit import (
    EVERYTHING,
    LATE_S,
    What,
    breaking_group,
    breaking_rig,
)

MARK = ["primary says Mark", "secondary says Marked"]
BACKUPS = [f"step {step} begins" for step in BACKUP.names] + MARK
GROUPS = [f"step {step} begins" for step in GROUP_BACKUP.names] + MARK


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize(
    ("moment", "split_remote"), [(one, False) for one in BACKUPS] + [(one, True) for one in MARK]
)
async def test_a_backup(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    what: What,
    split_remote: bool,
) -> None:
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        await kit.fill(0, 20, "before")
        assert (await kit.backup("good")).state is JobState.DONE
        then = kit.at_mark
        await kit.fill(4, 10, "after")
        kit.at, kit.what, kit.away_s = moment, what, LATE_S
        info = await kit.backup("new", split_remote=split_remote)
        assert not kit.at, f"it never came to that: {kit.moments}"
        await kit.at_rest()
        assert not kit.frozen
        labels = {slot.label for slot in await survey(kit, kit.config) if slot.is_backup}
        if info.state is JobState.DONE:
            assert labels == {"good", "new"}
            assert kit.b.image("third-2") == kit.at_mark
            await kit.a.until("remote", S.PSUS if split_remote else S.PAIR)
        else:
            assert info.next_step
            assert "undoing" not in info.error
            assert labels == {"good"}
            await kit.in_sync()
            await kit.b.until("local-2", S.PAIR)
        assert kit.b.image("third") == then


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("moment", GROUPS)
async def test_a_backup_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: What
) -> None:
    async with breaking_group(tmp_path, monkeypatch) as kit:
        for number in range(20):
            await kit.write_both(number)
        then = held(kit, await kit.take("good"))
        for number in range(20, 40):
            await kit.write_both(number)
        kit.at, kit.what, kit.away_s = moment, what, LATE_S
        info = await kit.take("new")
        assert not kit.at, f"it never came to that: {kit.moments}"
        await kit.at_rest()
        assert not kit.still
        good = {("ds", "good"), ("log", "good")}
        if info.state is JobState.DONE:
            assert await kit.backups() == good | {("ds", "new"), ("log", "new")}
            assert held(kit, info) == kit.images
        else:
            assert info.next_step
            assert "undoing" not in info.error
            assert await kit.backups() == good
        await kit.settled()
        assert (kit.b.image("third"), kit.b.image("log-1")) == (then["ds"], then["log"])
