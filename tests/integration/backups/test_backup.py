"""Several backups of one volume, each one instant; and what is left when one is cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobState
from hostagent.jobs.backup import BACKUP
from hostagent.jobs.survey import survey
from tests.integration.backups.kit import BLOCK, Rig, S, once, rig

VOLUMES = {"local": "third", "local-2": "third-2", "local-3": "third-3"}


async def taken(kit: Rig, label: str, **more: object) -> tuple[str, bytes]:
    """A backup; the pair that has it, and the first volume as it stood still."""
    info = await kit.backup(label, **more)
    assert info.state is JobState.DONE, info
    assert info.receipt is not None
    assert kit.at_mark is not None
    pair = info.receipt.backup_pair
    assert kit.b.image(VOLUMES[pair]) == kit.at_mark
    assert info.receipt.frozen_s == 0.5
    return pair, kit.at_mark


async def test_slots_are_filled_then_the_oldest_is_overwritten(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=3) as kit:
        images: dict[str, bytes] = {}
        order = []
        for number in range(5):
            await kit.fill(number * 3, 5, f"day {number}")
            pair, images[pair] = await taken(kit, f"day {number}")
            order.append(pair)
            for each, image in images.items():
                assert kit.b.image(VOLUMES[each]) == image, f"{each} on day {number}"
        assert order == ["local", "local-2", "local-3", "local", "local-2"]
        slots = await survey(kit, kit.config)
        assert [(each.label, each.number) for each in slots] == [
            ("day 3", 4),
            ("day 4", 5),
            ("day 2", 3),
        ]
        assert all(each.taken_at > 1.7e9 for each in slots)


async def test_the_receipt_says_what_took_how_long_and_what_was_copied(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await taken(kit, "one")
        await kit.fill(0, 7, "more")
        info = await kit.backup("two")
        assert info.receipt is not None
        assert list(info.receipt.step_s) == [n for n in BACKUP.names if n != "receipt"]
        assert info.receipt.union_bytes == info.receipt.payload_bytes == 7 * BLOCK
        await kit.b.do("pair.resync", m.PairResync(name="local"))
        await kit.b.until("local", S.PAIR)
        again = (await kit.backup("three")).receipt
        assert again is not None
        assert (again.union_bytes, again.payload_bytes) == (0, 0), "it followed already"


async def test_what_is_to_be_kept_is_kept(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await taken(kit, "one")
        await taken(kit, "two")
        info = await kit.backup("three", keep=2)
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert "--keep" in info.next_step
        assert [kit.b.pair(pair).split_label for pair in ("local", "local-2")] == ["one", "two"]
        pair, _ = await taken(kit, "three", keep=1)
        assert pair == "local"


async def test_a_single_slot_says_what_is_given_up(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await taken(kit, "one")
        await kit.fill(0, 4, "more")
        info = await kit.backup("two")
        assert info.state is JobState.DONE
        assert info.receipt is not None
        assert info.receipt.replaced == "backup 'one' in 'local'"
        said = {state.message for state in kit.states}
        assert any("is the only backup, and is gone while" in message for message in said)


async def test_both_pairs_are_split_where_that_is_asked(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await kit.fill(3, 9, "x")
        pair, image = await taken(kit, "both", split_remote=True)
        assert pair == "local"
        assert kit.a.image("first") == kit.b.image("second") == kit.b.image("third") == image
        assert (kit.a.pair("remote").state, kit.b.pair("remote").state) == (S.PSUS, S.SSUS)
        await kit.fill(0, 2, "later")
        assert kit.b.image("second") == image
        info = await kit.backup("next")
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert "trilun pair resync remote" in info.next_step


@pytest.mark.parametrize("split_remote", [False, True])
@pytest.mark.parametrize(
    "moment",
    [f"step {step} {when}" for step in BACKUP.names for when in ("begins", "ended")]
    + [f"{when} {verb}" for verb in ("pair.resync", "backup.mark") for when in ("before", "after")]
    + ["after freeze"],
)
async def test_killed_at_any_boundary_the_mark_hits_a_freeze(
    tmp_path: Path, moment: str, split_remote: bool
) -> None:
    async with rig(tmp_path) as kit:
        await taken(kit, "old")
        await kit.fill(2, 6, "more")
        kit.lives, kit.kill_at = 0, once(moment)
        info = await kit.backup("new", split_remote=split_remote)
        assert kit.lives == 2
        assert info.state is JobState.DONE, info
        assert kit.b.image("third") == kit.at_mark
        assert kit.b.pair("local").split_label == "new"
        assert (kit.a.pair("remote").state is S.PSUS) == split_remote
        assert not kit.frozen


@pytest.mark.parametrize("split_remote", [False, True])
async def test_a_mark_that_missed_the_freeze_leaves_no_backup(
    tmp_path: Path, split_remote: bool
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await taken(kit, "good")

        async def thaws_by_itself() -> None:
            kit.frozen = False

        kit.meanwhile["after backup.mark"] = thaws_by_itself
        info = await kit.backup("bad", split_remote=split_remote)
        assert (info.state, info.code) == (JobState.FAILED, Code.HOST_ERROR)
        assert "by itself after 7.5 s" in info.error
        await kit.in_sync()
        await kit.b.until("local-2", S.PAIR)
        slots = await survey(kit, kit.config)
        assert [each.label for each in slots if each.is_backup] == ["good"]
        await kit.fill(0, 3, "on")
        assert kit.a.image("first") == kit.b.image("second") == kit.b.image("third-2")


async def test_a_refused_mark_splits_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        kit.faults["backup.mark"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]
        info = await kit.backup("x", split_remote=True)
        assert (info.state, info.next_step) == (JobState.FAILED, "mend it")
        assert kit.a.pair("remote").state is S.PAIR
        assert kit.b.pair("local").state is S.PAIR
