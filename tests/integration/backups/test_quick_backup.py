"""Quick backups: taken without waiting for the slot, read from while they are being copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.messages import JobKind, JobState
from controller.pair.pace import RateCap
from hostagent.jobs.backup import BACKUP
from hostagent.jobs.survey import survey
from tests.integration.backups.kit import Rig, S, once, rig
from tests.integration.backups.test_becoming import PARAMS
from tests.rig import eventually

SLOW_BYTES_PER_S = 64 << 10


async def apart(kit: Rig) -> None:
    """An old backup, and a second that differs from it; a copy to the third takes seconds."""
    await kit.fill(0, 150, "old")
    assert (await kit.backup("old")).state is JobState.DONE
    await kit.fill(0, 150, "new")
    kit.b.node.pairs.get("local").record.rate_limit_bytes_per_s = SLOW_BYTES_PER_S


def hurry(kit: Rig) -> None:
    """The copy isn't held up any more."""
    behind = kit.b.node.pairs.get("local").side.behind
    assert behind is not None
    behind._cap = RateCap(None, 0.0)
    behind._again(0)


async def copied(kit: Rig) -> None:
    hurry(kit)
    assert await eventually(lambda: not kit.b.pair("local").behind)


async def test_it_does_not_wait_for_what_differs(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await apart(kit)
        info = await kit.backup("quick", quick=True)
        assert info.state is JobState.DONE, info
        assert "trilun pair wait local PSUS" in info.next_step
        assert info.receipt is not None
        assert info.receipt.replaced == "backup 'old' in 'local'"
        image = kit.at_mark
        (slot,) = await survey(kit, kit.config)
        assert (slot.is_backup, slot.behind, slot.label) == (True, True, "quick")
        assert kit.b.image("third") != image
        await kit.fill(0, 10, "later")
        again = await kit.backup("too soon", quick=True)
        assert (again.state, again.next_step[:8]) == (JobState.FAILED, "wait for")
        await copied(kit)
        assert kit.b.image("third") == image
        (slot,) = await survey(kit, kit.config)
        assert (slot.is_backup, slot.behind, slot.label) == (True, False, "quick")


async def test_a_slot_in_sync_is_split_as_ever(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        info = await kit.backup("quick", quick=True)
        assert (info.state, info.next_step) == (JobState.DONE, "")
        assert kit.b.image("third") == kit.at_mark


@pytest.mark.parametrize(
    "moment",
    [f"step {step} {when}" for step in BACKUP.names for when in ("begins", "ended")]
    + [f"{when} {verb}" for verb in ("pair.resync", "backup.mark") for when in ("before", "after")]
    + ["after freeze"],
)
async def test_killed_at_any_boundary_the_mark_hits_a_freeze(tmp_path: Path, moment: str) -> None:
    async with rig(tmp_path) as kit:
        await apart(kit)
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.backup("quick", quick=True)
        assert kit.lives == 2
        assert info.state is JobState.DONE, info
        image = kit.at_mark
        await kit.fill(100, 50, "later")
        await copied(kit)
        assert kit.b.image("third") == image
        assert kit.b.pair("local").split_label == "quick"
        assert not kit.frozen


async def test_a_mark_that_missed_the_freeze_leaves_no_backup(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await apart(kit)

        async def thaws_by_itself() -> None:
            kit.frozen = False
            kit.b.node.pairs.get("local").record.rate_limit_bytes_per_s = None

        kit.meanwhile["after backup.mark"] = thaws_by_itself
        info = await kit.backup("quick", quick=True)
        assert info.state is JobState.FAILED
        await kit.b.until("local", S.PAIR)
        assert kit.b.image("third") == kit.b.image("second")


async def test_a_whole_volume_is_restored_when_all_is_copied(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await apart(kit)
        await kit.backup("quick", quick=True)
        image = kit.at_mark
        await kit.fill(0, 10, "later")
        plan = await kit.restore(dry_run=True)
        assert plan.state is JobState.DONE
        assert kit.b.pair("local").behind, "a dry run does not wait"

        async def goes_on() -> None:
            hurry(kit)

        kit.meanwhile["step plan begins"] = goes_on
        info = await kit.restore()
        assert info.state is JobState.DONE, info
        assert any("waiting until backup 'quick'" in each.message for each in kit.states)
        await kit.in_sync()
        assert kit.a.image("first") == kit.b.image("second") == kit.b.image("third") == image


async def test_a_copy_that_is_given_up_ends_the_restore_before_anything_is_touched(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as kit:
        await apart(kit)
        await kit.backup("quick", quick=True)
        now = kit.a.image("first")

        async def gives_up() -> None:
            kit.b.node.pairs.get("local").store_failed("on purpose")

        kit.meanwhile["after volume.show"] = gives_up
        info = await kit.restore()
        assert info.state is JobState.FAILED, info
        assert "trilun" in info.next_step
        await kit.in_sync()
        assert kit.a.image("first") == kit.b.image("second") == now
        assert not kit.released_for


async def test_files_come_from_it_while_it_is_copied_and_as_files(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await apart(kit)
        await kit.backup("quick", quick=True)
        asked = {**PARAMS, "dry_run": True}
        info = await kit.run(JobKind.RESTORE, **asked)
        assert info.state is JobState.DONE, info
        assert info.plan is not None
        assert (info.plan.backup_label, info.plan.whole) == ("quick", "")
        assert kit.b.pair("local").behind
        view = m.ViewOpen(volume="third", view="look")
        assert (await kit.b.do("view.open", view)).verdict.value == "accepted"
