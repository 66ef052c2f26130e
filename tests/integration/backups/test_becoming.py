"""A restore of all files there are becomes one of the whole volume, behind the split."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.messages import JobKind, JobState
from tests.integration.backups.kit import Rig, S, once, rig

PARAMS: dict[str, object] = {
    "paths": ["*"],
    "to": "",
    "conflict": "overwrite",
    "dry_run": False,
    "force": False,
    "from_backup": "",
}


async def backed_up(kit: Rig) -> bytes:
    await kit.fill(0, 20, "before")
    assert (await kit.backup("good")).state is JobState.DONE
    await kit.fill(4, 10, "after")
    assert kit.at_mark is not None
    return kit.at_mark


async def undone(kit: Rig, now: bytes, image: bytes) -> None:
    await kit.in_sync()
    assert kit.a.image("first") == kit.b.image("second") == now
    assert kit.b.image("third") == image
    assert kit.released_for == ""
    assert not kit.files.mounted


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "step decide begins",
        "before view.close",
        "after view.close",
        "step resync-second begins",
        "step keep ended",
        "step reclaim begins",
    ],
)
async def test_all_the_files_are_the_whole_volume(tmp_path: Path, moment: str) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.run(JobKind.RESTORE, **PARAMS)
        assert (info.state, info.kind) == (JobState.DONE, JobKind.WHOLE), info
        assert kit.lives == (2 if moment else 1)
        await kit.in_sync()
        assert kit.a.image("first") == kit.b.image("second") == kit.b.image("third") == image
        assert kit.b.pair("local").state is S.PSUS
        assert kit.b.pair("local").split_label == "good"
        assert kit.released_for == ""
        assert not kit.files.mounted
        assert info.receipt is not None
        assert info.plan is not None
        assert "all there is on the volume" in info.receipt.whole
        assert info.plan.whole == info.receipt.whole
        assert info.steps == info.plan.steps
        assert "resync-second" in info.steps


async def test_it_is_undone_like_any_other(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")

        async def another() -> None:
            await kit.b.do("pair.resync", m.PairResync(name="local"))
            await kit.b.until("local", S.PAIR)
            await kit.b.do("pair.split", m.PairSplit(name="local", number=9))

        kit.meanwhile["step resync-second begins"] = another
        info = await kit.run(JobKind.RESTORE, **PARAMS)
        assert (info.state, info.kind) == (JobState.FAILED, JobKind.WHOLE)
        assert "overwritten meanwhile" in info.error
        await undone(kit, now, kit.b.image("third"))
        assert image != now


async def test_a_volume_that_has_more_gets_files(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")
        kit.files.nothing_else = False
        info = await kit.run(JobKind.RESTORE, **PARAMS)
        assert (info.kind, info.error) == (JobKind.RESTORE, "compare: files are another test's")
        assert info.plan is not None
        assert info.plan.whole == ""
        await undone(kit, now, image)


@pytest.mark.parametrize("more", [{"conflict": None}, {"conflict": "skip"}, {"to": "elsewhere"}])
async def test_what_is_to_be_kept_keeps_it_a_restore_of_files(
    tmp_path: Path, more: dict[str, object]
) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")
        info = await kit.run(JobKind.RESTORE, **{**PARAMS, **more})
        assert (info.kind, info.step) == (JobKind.RESTORE, "plan")
        assert kit.files.looked == 0
        await undone(kit, now, image)
