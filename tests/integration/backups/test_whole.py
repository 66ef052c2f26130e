"""A whole volume comes back by bitmaps alone, and the backup stays one, wherever the agent dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobState
from hostagent.jobs.whole import WHOLE
from tests.integration.backups.kit import BLOCK, Rig, S, once, rig


async def backed_up(kit: Rig) -> bytes:
    """A backup, and writes since; returns the first volume as it was at the backup."""
    await kit.fill(0, 20, "before")
    await kit.fill(100, 8, "before")
    info = await kit.backup("good")
    assert info.state is JobState.DONE, info
    assert kit.at_mark is not None
    assert kit.b.image("third") == kit.at_mark
    await kit.fill(4, 10, "after")
    await kit.fill(100, 3, "new")
    return kit.at_mark


async def restored(kit: Rig, image: bytes, info: m.JobInfo) -> m.Receipt:
    assert info.state is JobState.DONE, info
    await kit.in_sync()
    assert kit.a.image("first") == image, "first equals third as it was at its split"
    assert kit.b.image("second") == image
    assert kit.b.image("third") == image
    local = kit.b.pair("local")
    assert (local.state, local.split_label, local.backup_number) == (S.PSUS, "good", 1)
    assert local.split_at > 1.7e9
    assert kit.a.pair("remote").dirty_bytes == kit.b.pair("remote").dirty_bytes == 0
    assert kit.released_for == ""
    assert info.receipt is not None
    return info.receipt


async def untouched(kit: Rig, now: bytes, image: bytes) -> None:
    """Everything is as it was before the restore."""
    await kit.in_sync()
    assert kit.a.image("first") == kit.b.image("second") == now
    assert kit.b.image("third") == image
    local = kit.b.pair("local")
    assert (local.state, local.split_label, local.backup_number) == (S.PSUS, "good", 1)
    assert kit.released_for == ""


async def test_first_becomes_what_the_third_was_and_little_travels(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        receipt = await restored(kit, image, await kit.restore())
        differing = 13 * BLOCK
        assert receipt.second_union_bytes == receipt.second_payload_bytes == differing
        assert receipt.union_bytes == differing
        assert receipt.payload_bytes <= differing
        assert receipt.wire_bytes <= 1.02 * differing + 4096, "blocks, and the bitmaps"
        assert receipt.whole
        assert receipt.label == "good"
        # The next write of host 1 reaches the second, and never the backup.
        await kit.fill(0, 1, "later")
        assert kit.a.image("first") == kit.b.image("second") != image
        assert kit.b.image("third") == image


async def test_a_dry_run_says_what_is_lost_and_touches_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")
        before = len(kit.calls)
        info = await kit.restore(dry_run=True)
        assert (info.state, info.receipt) == (JobState.DONE, None)
        plan = info.plan
        assert plan is not None
        assert (plan.backup_label, plan.backup_pair) == ("good", "local")
        assert plan.direction is m.Direction.REVERSE
        assert plan.starting_point == "in_sync"
        assert plan.second_union_bytes == plan.union_bytes == plan.overwritten_bytes == 13 * BLOCK
        assert "is lost" in plan.meaning
        assert "comparing their bitmaps" in plan.rule
        assert plan.eta_s > 0
        assert {verb for verb, _ in kit.calls[before:]} <= {"pair.show", "volume.show"}
        await untouched(kit, now, image)


async def test_an_older_backup_comes_back_and_all_others_stay(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=3) as kit:
        images: dict[str, bytes] = {}
        for number, label in enumerate(("one", "two", "three")):
            await kit.fill(number * 8, 8, label)
            assert (await kit.backup(label)).state is JobState.DONE
            assert kit.at_mark is not None
            images[label] = kit.at_mark
        await kit.fill(0, 40, "junk")
        for label in ("one", "three", "two"):
            info = await kit.restore(label, undo="never")
            assert info.state is JobState.DONE, info
            await kit.in_sync()
            assert kit.a.image("first") == kit.b.image("second") == images[label]
            for kept, volume in (("one", "third"), ("two", "third-2"), ("three", "third-3")):
                assert kit.b.image(volume) == images[kept], f"{kept} after {label}"


async def test_a_pair_that_is_split_is_restored_through(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        await kit.a.do("pair.split", m.PairSplit(name="remote"))
        await kit.fill(30, 5, "apart")
        info = await kit.restore()
        assert info.plan is not None
        assert info.plan.starting_point == "split"
        assert info.plan.overwritten_bytes == 18 * BLOCK
        receipt = await restored(kit, image, info)
        assert receipt.union_bytes == 18 * BLOCK


async def test_a_mirroring_slot_follows_again(tmp_path: Path) -> None:
    """Another slot that is in PAIR is kept while the second is copied to, then follows it."""
    async with rig(tmp_path, slots=2) as kit:
        image = await backed_up(kit)
        await restored(kit, image, await kit.restore(undo="never"))
        await kit.b.until("local-2", S.PAIR)
        assert kit.b.image("third-2") == image


MOMENTS = [f"step {step} {when}" for step in WHOLE.names for when in ("begins", "ended")] + [
    f"{when} {verb}"
    for verb in ("fs.release", "pair.split", "pair.resync", "fs.reclaim")
    for when in ("before", "after")
]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_at_any_boundary_it_goes_on(tmp_path: Path, moment: str) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.restore()
        assert kit.lives == 2
        await restored(kit, image, info)


@pytest.mark.parametrize(
    ("verb", "skip"),
    [
        ("fs.release", 0),
        ("pair.split", 0),
        ("pair.resync", 0),
        ("pair.split", 1),
        ("pair.resync", 1),
    ],
)
async def test_a_step_that_fails_undoes_everything(tmp_path: Path, verb: str, skip: int) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")
        broken = RejectedError(Code.HOST_ERROR, "broken", "mend it")

        def fail(what: str) -> bool:
            nonlocal skip
            if what == f"before {verb}":
                if skip == 0:
                    kit.faults[verb] = [broken]
                skip -= 1
            return False

        kit.kill_at = fail
        info = await kit.restore()
        assert (info.state, info.next_step) == (JobState.FAILED, "mend it")
        await untouched(kit, now, image)


@pytest.mark.parametrize("undone", ["split", "resync-second", "release"])
@pytest.mark.parametrize("when", ["begins", "ended"])
async def test_killed_while_it_is_undone_it_is_undone(
    tmp_path: Path, undone: str, when: str
) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")
        kill = once(f"undo {undone} {when}")

        def moment(what: str) -> bool:
            if what == "step keep begins":
                kit.faults["pair.split"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]
            return kill(what)

        kit.lives, kit.kill_at = 0, moment
        info = await kit.restore()
        assert (info.state, kit.lives) == (JobState.FAILED, 2)
        await untouched(kit, now, image)


async def test_a_backup_that_was_overwritten_meanwhile_is_not_taken_for_itself(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as kit:
        await backed_up(kit)
        now = kit.a.image("first")

        async def another() -> None:
            await kit.b.do("pair.resync", m.PairResync(name="local"))
            await kit.b.until("local", S.PAIR)
            await kit.b.do("pair.split", m.PairSplit(name="local", label="good", number=7))

        kit.meanwhile["step release begins"] = another
        info = await kit.restore()
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert "overwritten meanwhile" in info.error
        await kit.in_sync()
        assert kit.a.image("first") == now
        assert kit.b.pair("local").backup_number == 7


async def test_what_was_given_up_where_only_forward_is_possible_is_gone_on_with(
    tmp_path: Path,
) -> None:
    """A host 1 that can't mount ends the job; one command goes on, and nothing is copied twice."""
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.faults["fs.reclaim"] = [
            RejectedError(Code.HOST_ERROR, "no such device", "mend it") for _ in range(8)
        ]
        info = await kit.restore()
        assert (info.state, info.step) == (JobState.FAILED, "reclaim")
        assert "nothing is undone" in info.error
        assert info.next_step == f"mend it; then go on with `trilun job resume {info.id}`"
        assert kit.released_for == info.id
        assert kit.a.image("first") == image
        engine = kit.engine()
        await engine.load({"ds": kit.config})
        resyncs = sum(verb == "pair.resync" for verb, _ in kit.calls)
        _, changed = await engine.resume(info.id)
        assert changed
        assert not (await engine.resume(info.id))[1], "it runs"
        await restored(kit, image, await engine.wait(info.id))
        assert sum(verb == "pair.resync" for verb, _ in kit.calls) == resyncs
        with pytest.raises(RejectedError) as refused:
            await engine.resume(info.id)
        assert refused.value.code is Code.WRONG_STATE


async def test_what_was_undone_is_not_gone_on_with(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await backed_up(kit)
        kit.faults["pair.split"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]
        info = await kit.restore()
        assert (info.state, info.next_step) == (JobState.FAILED, "mend it")
        engine = kit.engine()
        await engine.load({"ds": kit.config})
        with pytest.raises(RejectedError, match="nothing left"):
            await engine.resume(info.id)


@pytest.mark.parametrize("after", ["pair.split", "pair.resync"])
async def test_a_secondary_that_is_restarted_in_the_middle_is_waited_for(
    tmp_path: Path, after: str
) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.meanwhile[f"after {after}"] = kit.restart_secondary
        await restored(kit, image, await kit.restore())
