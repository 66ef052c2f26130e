"""What a restore of the whole volume overwrites is kept, and comes back bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobState
from hostagent.jobs.dropping import drop_undo, undo_params
from hostagent.jobs.slots import choose_undo
from hostagent.jobs.survey import survey
from hostagent.jobs.whole import WHOLE
from tests.integration.backups.kit import BLOCK, Rig, S, once, rig


async def backed_up(kit: Rig, *, split: bool = False) -> tuple[bytes, bytes]:
    """A backup in the first slot and writes since: as it was then, and as it is now."""
    await kit.fill(0, 20, "before")
    assert (await kit.backup("good")).state is JobState.DONE
    assert kit.at_mark is not None
    await kit.fill(4, 10, "after")
    if split:
        await kit.a.do("pair.split", m.PairSplit(name="remote", label="apart", at=7.0))
        await kit.fill(30, 5, "apart")
    return kit.at_mark, kit.a.image("first")


async def undo(kit: Rig, job: str = "", **more: object) -> m.JobInfo:
    """`trilun restore undo`, as the agent begins it."""
    slot = choose_undo(await survey(kit, kit.config), job)
    asked = m.UndoStart.model_validate({"data_set": "ds", "job": job, **more})
    known = [info for info in kit.states if info.receipt is not None]
    return await kit.restore(**undo_params(slot, asked, known))


async def drop(kit: Rig, job: str = "") -> str:
    """`trilun restore drop-undo`; the pair that was freed."""
    _, freed = await drop_undo(kit, kit.config, job, f"drop-{len(kit.calls)}")
    return freed


async def undone(kit: Rig, now: bytes, image: bytes, *, split: bool) -> None:
    """Everything is as it was before the restore, and the slot is free."""
    assert kit.a.image("first") == now
    if split:
        await kit.a.until("remote", S.PSUS)
        remote = kit.a.pair("remote")
        assert (remote.split_label, remote.split_at) == ("apart", 7.0)
    else:
        await kit.in_sync()
        assert kit.b.image("second") == now
    assert kit.b.image("third") == image
    assert kit.b.pair("local").split_label == "good"
    await kit.b.until("local-2", S.PAIR)
    assert kit.released_for == ""


async def kept(kit: Rig, info: m.JobInfo, now: bytes, image: bytes) -> None:
    """It was restored, and what it has overwritten stands in the second slot."""
    assert info.state is JobState.DONE, info
    await kit.in_sync()
    assert kit.a.image("first") == kit.b.image("second") == kit.b.image("third") == image
    assert kit.b.image("third-2") == now
    local = kit.b.pair("local-2")
    assert (local.state, local.split_label, local.backup_number) == (
        S.PSUS,
        f"before-{info.id}",
        2,
    )
    assert kit.b.pair("local").split_label == "good"
    assert kit.released_for == ""
    assert info.receipt is not None
    assert info.receipt.undo_pair == "local-2"
    assert f"trilun restore undo {info.id}" in info.receipt.undo
    assert info.next_step == info.receipt.undo


@pytest.mark.parametrize("split", [False, True])
async def test_what_was_there_comes_back_though_hosts_have_written_since(
    tmp_path: Path, split: bool
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit, split=split)
        info = await kit.restore()
        await kept(kit, info, now, image)
        await kit.fill(0, 3, "since")
        await kit.fill(200, 4, "since")
        before = len(kit.calls)
        plan = (await undo(kit, info.id, dry_run=True)).plan
        assert plan is not None
        assert f"before restore {info.id}" in plan.meaning
        assert plan.overwritten_bytes == 7 * BLOCK, "what was written since the restore"
        assert "there is no undo" in plan.undo
        assert {verb for verb, _ in kit.calls[before:]} <= {"pair.show", "volume.show"}
        taken_back = await undo(kit)
        assert taken_back.state is JobState.DONE, taken_back
        await kit.in_sync()
        assert kit.a.image("first") == kit.b.image("second") == kit.b.image("third-2") == now
        assert kit.b.image("third") == image
        assert taken_back.receipt is not None
        assert taken_back.receipt.whole == f"restore {info.id} is undone"
        assert f"trilun restore drop-undo {info.id}" in taken_back.receipt.undo


async def test_an_undo_can_be_undone_where_there_is_another_slot(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=3) as kit:
        _, now = await backed_up(kit)
        await kit.restore()
        await kit.fill(200, 4, "since")
        since = kit.a.image("first")
        taken_back = await undo(kit)
        assert kit.a.image("first") == kit.b.image("third-2") == now
        assert kit.b.image("third-3") == since
        await undo(kit, taken_back.id)
        await kit.in_sync()
        assert kit.a.image("first") == since


MOMENTS = [f"step {step} {when}" for step in WHOLE.names for when in ("begins", "ended")] + [
    f"{when} {verb}"
    for verb in ("backup.mark", "fs.release", "pair.split", "pair.resync", "fs.reclaim")
    for when in ("before", "after")
]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_at_any_boundary_it_goes_on(tmp_path: Path, moment: str, split: bool) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit, split=split)
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.restore()
        assert kit.lives == 2
        await kept(kit, info, now, image)


@pytest.mark.parametrize("moment", [one for one in MOMENTS if one.startswith("step")])
async def test_an_undo_that_is_killed_goes_on(tmp_path: Path, moment: str) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)
        await kit.restore()
        await kit.fill(0, 3, "since")
        kit.lives, kit.kill_at = 0, once(moment)
        info = await undo(kit)
        assert (info.state, kit.lives) == (JobState.DONE, 2), info
        await kit.in_sync()
        assert kit.a.image("first") == kit.b.image("third-2") == now
        assert kit.b.image("third") == image


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("step", ["fill-undo", "release", "split", "resync-second", "keep"])
async def test_a_restore_that_fails_gives_the_slot_back(
    tmp_path: Path, step: str, split: bool
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit, split=split)
        verb = {"fill-undo": "pair.show", "release": "fs.release", "split": "backup.mark"}
        failing = verb.get(step, "pair.split" if step == "keep" else "pair.resync")

        def fail(what: str) -> bool:
            if what == f"step {step} begins":
                kit.faults[failing] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]
            return False

        kit.kill_at = fail
        info = await kit.restore()
        assert (info.state, info.step) == (JobState.FAILED, "plan"), info
        assert info.error.startswith(f"{step}: ")
        assert "mend it" in info.next_step
        await undone(kit, now, image, split=split)


UNDONE = ["keep", "resync-second", "split", "release", "fill-undo", "mirror", "plan"]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("step", UNDONE)
@pytest.mark.parametrize("when", ["begins", "ended"])
async def test_killed_while_it_is_undone_it_is_undone(
    tmp_path: Path, step: str, when: str, split: bool
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit, split=split)
        kill = once(f"undo {step} {when}")

        def moment(what: str) -> bool:
            if what == "step keep begins":
                kit.faults["pair.split"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]
            return kill(what)

        kit.lives, kit.kill_at = 0, moment
        info = await kit.restore()
        assert info.state is JobState.FAILED
        has_undo = any(each.name == step and each.undo is not None for each in WHOLE.steps)
        assert kit.lives == (2 if has_undo else 1)
        await undone(kit, now, image, split=split)


async def test_what_is_kept_is_no_backups_until_it_is_dropped(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)
        info = await kit.restore()
        refused = await kit.backup("next")
        assert (refused.state, refused.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert "'local-2' keeps what was there before restore" in refused.error
        assert f"`trilun restore drop-undo {info.id}`" in refused.next_step
        # The backup before it is still what a restore reads that names none.
        again = await kit.restore(undo="never", dry_run=True)
        assert again.plan is not None
        assert again.plan.backup_label == "good"
        await kept(kit, info, now, image)
        assert await drop(kit, info.id) == "local-2"
        assert await drop(kit, info.id) == "", "a no-op"
        with pytest.raises(RejectedError, match="before any restore"):
            await drop(kit)
        with pytest.raises(RejectedError, match="nothing is kept") as caught:
            await undo(kit, info.id)
        assert caught.value.code is Code.NOT_FOUND
        await kit.b.until("local-2", S.PAIR)
        taken = await kit.backup("next")
        assert taken.receipt is not None
        assert taken.receipt.backup_pair == "local-2"
        assert kit.b.image("third") == image


async def test_a_slot_that_is_given_up_is_free_although_that_was_cut_off(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, _ = await backed_up(kit)
        info = await kit.restore()
        await kit.fill(100, 100, "since")
        kit.meanwhile["after pair.resync"] = kit.restart_secondary
        assert await drop(kit) == "local-2"
        await kit.b.until("local-2", S.PAIR)
        assert kit.a.image("first") == kit.b.image("third-2") != image
        assert [slot.undo_of for slot in await survey(kit, kit.config)] == ["", ""]
        assert await drop(kit, info.id) == ""


@pytest.mark.parametrize("dry_run", [False, True])
async def test_without_a_free_slot_it_is_refused_unless_that_is_given_up(
    tmp_path: Path, dry_run: bool
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)
        assert (await kit.backup("better")).state is JobState.DONE
        begun = len(kit.calls)
        for more in ({}, {"undo": "required"}):
            refused = await kit.restore("good", dry_run=dry_run, **more)
            assert (refused.state, refused.code, refused.step) == (
                JobState.FAILED,
                Code.WRONG_STATE,
                "plan",
            )
            assert "no backup slot is free to keep what is overwritten" in refused.error
            assert "`trilun pair create ds-undo b/second b/ds-undo`" in refused.next_step
            assert refused.next_step.endswith("; or give up what is overwritten: --no-undo")
        assert {verb for verb, _ in kit.calls[begun:]} <= {"pair.show", "volume.show"}
        assert kit.a.image("first") == kit.b.image("third-2") == now
        info = await kit.restore("good", undo="never", dry_run=dry_run)
        assert info.state is JobState.DONE
        assert info.plan is not None
        assert info.plan.undo == "there is no undo: it was asked for without"
        assert (info.next_step, info.plan.undo_pair) == ("", "")
        await kit.in_sync()
        assert kit.a.image("first") == (now if dry_run else image)


async def test_an_undo_for_which_no_slot_is_free_says_so(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await backed_up(kit)
        await kit.restore()
        plan = (await undo(kit, dry_run=True)).plan
        assert plan is not None
        assert plan.undo_pair == ""
        assert "there is no undo: no backup slot is free" in plan.undo
        assert "trilun pair create ds-undo b/second b/ds-undo" in plan.undo
        assert (await undo(kit, undo="required")).state is JobState.FAILED
        info = await undo(kit)
        assert info.receipt is not None
        assert info.receipt.undo.startswith(plan.undo)


async def test_a_backup_is_overwritten_for_it_only_when_that_is_asked(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await backed_up(kit)
        assert (await kit.backup("better")).state is JobState.DONE
        await kit.fill(100, 2, "now")
        now = kit.a.image("first")
        assert (await kit.restore("good", keep=1, undo="required")).state is JobState.FAILED
        info = await kit.restore(keep=1, undo="required")
        assert info.plan is not None
        assert "backup 'good' in 'local' is overwritten for it" in info.plan.undo
        await kit.in_sync()
        assert kit.b.image("third") == now
        assert kit.b.pair("local-2").split_label == "better"
        assert (await undo(kit)).state is JobState.DONE
        assert kit.a.image("first") == now


async def test_it_can_be_done_without(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await backed_up(kit)
        info = await kit.restore(undo="never")
        assert info.receipt is not None
        assert info.receipt.undo == "there is no undo: it was asked for without"
        await kit.b.until("local-2", S.PAIR)


async def test_a_second_volume_in_use_is_not_overwritten_for_an_undo(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await backed_up(kit, split=True)
        kit.b.logged_in("second", "iqn.h2")
        refused = await kit.restore(dry_run=True)
        assert (refused.state, refused.code) == (JobState.FAILED, Code.IN_USE)
        assert "iqn.h2 uses volume 'second'" in refused.error
        assert refused.next_step.endswith("--no-undo")


@pytest.mark.parametrize("step", ["fill-undo", "split", "resync-second"])
async def test_a_slot_that_somebody_takes_meanwhile_is_left_to_them(
    tmp_path: Path, step: str
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        _, now = await backed_up(kit)

        async def take() -> None:
            if step == "resync-second":
                await kit.b.do("pair.resync", m.PairResync(name="local-2"))
                await kit.b.until("local-2", S.PAIR)
            await kit.b.do("pair.split", m.PairSplit(name="local-2", label="theirs", number=9))

        kit.meanwhile[f"step {step} begins"] = take
        info = await kit.restore()
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        await kit.in_sync()
        assert kit.a.image("first") == now
        local = kit.b.pair("local-2")
        assert (local.state, local.split_label, local.backup_number) == (S.PSUS, "theirs", 9)


async def test_a_backup_that_had_chosen_the_slot_leaves_it_to_the_restore(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)
        restored: list[m.JobInfo] = []

        async def restore() -> None:
            kit.directory = tmp_path / "jobs-of-the-other-host"
            restored.append(await kit.restore())

        kit.meanwhile["step resync begins"] = restore
        info = await kit.backup("late")
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert "keeps what a restore has overwritten" in info.error
        await kept(kit, restored[0], now, image)


async def test_what_somebody_has_overwritten_meanwhile_stays_in_the_slot(tmp_path: Path) -> None:
    """The job fails before it copies back, but an operator has done so: PAIR is no proof."""
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)

        async def copied_back() -> None:
            params = m.PairResync(name="remote", direction=m.Direction.REVERSE)
            await kit.a.do("pair.resync", params)
            await kit.in_sync()
            kit.faults["pair.split"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]

        kit.meanwhile["step keep begins"] = copied_back
        info = await kit.restore()
        assert info.state is JobState.FAILED
        assert "a copy back into volume 'first' was begun" in info.error
        assert f"`trilun restore undo {info.id}` brings it back" in info.next_step
        assert kit.a.image("first") == image
        assert kit.b.image("third-2") == now
        assert kit.b.pair("local-2").split_label == f"before-{info.id}"
        assert (await undo(kit)).state is JobState.DONE
        assert kit.a.image("first") == now


async def test_a_backup_in_vain_leaves_the_slot_to_the_restore(tmp_path: Path) -> None:
    """Both chose the same slot and number, and the restore has marked it last."""
    async with rig(tmp_path, slots=2) as kit:
        await backed_up(kit)
        label = "before-whole-0123456789"

        async def restore() -> None:
            kit.frozen = False
            await kit.b.do("pair.resync", m.PairResync(name="local-2"))
            await kit.b.until("local-2", S.PAIR)
            params = m.PairSplit(name="local-2", label=label, at=9.0, number=2)
            await kit.b.do("pair.split", params)

        kit.meanwhile["after backup.mark"] = restore
        info = await kit.backup("late")
        assert info.state is JobState.FAILED
        assert "thawed before the split" in info.error
        slot = kit.b.pair("local-2")
        assert (slot.state, slot.split_label) == (S.PSUS, label)


async def test_a_split_whose_answer_was_lost_is_recognized(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)

        async def lost() -> None:
            params = m.BackupMark(
                remote_pair="remote",
                local_pair="local-2",
                label=f"before-{kit.states[-1].id}",
                split_remote=True,
                number=2,
            )
            await kit.a.do("backup.mark", params)
            kit.faults["backup.mark"] = [RejectedError(Code.NO_PEER, "the link broke")]

        async def armed() -> None:
            kit.meanwhile["before backup.mark"] = lost

        kit.meanwhile["step split begins"] = armed
        await kept(kit, await kit.restore(), now, image)


@pytest.mark.parametrize("after", ["backup.mark", "pair.split", "pair.resync"])
async def test_a_secondary_that_is_restarted_in_the_middle_is_waited_for(
    tmp_path: Path, after: str
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        image, now = await backed_up(kit)
        kit.meanwhile[f"after {after}"] = kit.restart_secondary
        await kept(kit, await kit.restore(), now, image)
