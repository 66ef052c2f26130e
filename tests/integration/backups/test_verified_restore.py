"""A whole volume that came back is compared, and a host never gets what differs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.messages import JobState
from tests.integration.backups.kit import BLOCK, SIZE, Rig, S, once, rig
from tests.integration.backups.test_group_restore import backed_up as group_backed_up
from tests.integration.backups.test_group_restore import restored as group_restored
from tests.integration.backups.test_group_restore import untouched as group_untouched
from tests.integration.backups.test_whole import backed_up, restored
from tests.integration.pairs.test_verify import behind_the_back
from tests.rig import write


def spoil(kit: Rig, node: str, volume: str, block: int) -> Callable[[], Awaitable[None]]:
    """A disk that changes one byte of a volume."""

    async def changes() -> None:
        behind_the_back(kit.a if node == "a" else kit.b, volume, block * BLOCK + 17, b"!")

    return changes


async def test_a_receipt_says_that_all_was_compared(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        unasked = (await kit.restore(dry_run=True)).plan
        assert unasked is not None
        receipt = await restored(kit, image, await kit.restore(verify=True))
        assert (receipt.verified, receipt.compared_bytes) == (True, 2 * SIZE)
        compared = [params for verb, params in kit.calls if verb == "pair.verify"]
        assert compared == [m.PairVerify(name="local"), m.PairVerify(name="remote")]


async def test_nothing_is_compared_unasked(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        receipt = await restored(kit, image, await kit.restore())
        assert (receipt.verified, receipt.compared_bytes) == (False, 0)
        assert not any(verb == "pair.verify" for verb, _ in kit.calls)


@pytest.mark.parametrize("volume", ["second", "third"])
async def test_where_second_and_third_differ_all_is_undone(tmp_path: Path, volume: str) -> None:
    async with rig(tmp_path) as kit:
        await backed_up(kit)
        now = kit.a.image("first")
        kit.meanwhile["step verify-second begins"] = spoil(kit, "b", volume, 60)
        info = await kit.restore(verify=True)
        assert info.state is JobState.FAILED, info
        assert info.error.startswith("verify-second: the two sides of 'local' differ in 4096 bytes")
        assert f"at {60 * BLOCK}+{BLOCK}" in info.error
        assert info.next_step
        await kit.in_sync()
        assert kit.a.image("first") == now
        assert kit.released_for == ""
        assert kit.b.pair("local").split_label == "good"


async def test_a_backup_that_somebody_splits_meanwhile_is_not_taken_for_compared(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        now = kit.a.image("first")

        async def splits() -> None:
            await kit.b.do("pair.split", m.PairSplit(name="local", label="good", number=1))

        kit.meanwhile["step verify-second begins"] = splits
        info = await kit.restore(verify=True)
        assert (info.state, info.step) == (JobState.FAILED, "plan"), info
        assert info.error.startswith("verify-second: ")
        await kit.in_sync()
        assert (kit.a.image("first"), kit.b.image("third")) == (now, image)


async def test_where_first_and_second_differ_host_1_does_not_get_it(tmp_path: Path) -> None:
    """The next steps that the job names end it well."""
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.meanwhile["step verify-first begins"] = spoil(kit, "a", "first", 60)
        info = await kit.restore(verify=True)
        assert (info.state, info.step) == (JobState.FAILED, "verify-first"), info
        assert "the two sides of 'remote' differ in 4096 bytes" in info.error
        assert kit.released_for == info.id
        for words in ("pair split remote", "--reverse", f"trilun job resume {info.id}"):
            assert words in info.next_step
        await kit.a.do("pair.split", m.PairSplit(name="remote"))
        await kit.a.do("pair.resync", m.PairResync(name="remote", direction=m.Direction.REVERSE))
        await kit.in_sync()
        engine = kit.engine()
        await engine.load({"ds": kit.config})
        await engine.resume(info.id)
        receipt = await restored(kit, image, await engine.wait(info.id))
        assert receipt.verified


async def test_a_second_volume_that_was_written_meanwhile_is_no_proof(tmp_path: Path) -> None:
    async with rig(tmp_path) as kit:
        await backed_up(kit)

        async def writes() -> None:
            await kit.a.do("pair.split", m.PairSplit(name="remote", writable=True))
            await write(kit.b.volume("second"), 0, b"x" * BLOCK)

        kit.meanwhile["step verify-first begins"] = writes
        info = await kit.restore(verify=True)
        assert (info.state, info.step) == (JobState.FAILED, "verify-first"), info
        assert f"second and third differ: {BLOCK} bytes in blocks" in info.error
        assert kit.released_for == info.id


MOMENTS = [
    *(
        f"step verify-{which} {when}"
        for which in ("second", "first")
        for when in ("begins", "ended")
    ),
    "before pair.verify",
    "after pair.verify",
    "step keep begins",
    "step keep ended",
]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_at_any_boundary_it_goes_on(tmp_path: Path, moment: str) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)
        kit.lives, kit.kill_at = 0, once(moment)
        receipt = await restored(kit, image, await kit.restore(verify=True))
        assert (kit.lives, receipt.verified, receipt.compared_bytes) == (2, True, 2 * SIZE)


@pytest.mark.parametrize("which", ["second", "first"])
async def test_a_comparison_that_is_cut_off_is_made_again(tmp_path: Path, which: str) -> None:
    async with rig(tmp_path) as kit:
        image = await backed_up(kit)

        async def armed() -> None:
            kit.meanwhile["after pair.verify"] = kit.restart_secondary

        kit.meanwhile[f"step verify-{which} begins"] = armed
        receipt = await restored(kit, image, await kit.restore(verify=True))
        assert (receipt.verified, receipt.compared_bytes) == (True, 2 * SIZE)


async def test_a_group_is_compared_and_undone_as_one(tmp_path: Path) -> None:
    async with group_backed_up(tmp_path) as (kit, images, was):
        kit.meanwhile["step verify-second begins"] = spoil(kit, "b", "log-1", 200)
        info = await kit.back(verify=True)
        assert info.state is JobState.FAILED
        assert "'log': the two sides of 'log-1' differ in 4096 bytes" in info.error
        assert kit.firsts() == was
        behind_the_back(kit.b, "log-1", 200 * BLOCK + 17, b"\0")
        await group_untouched(kit, images, was)
        info = await kit.back(verify=True)
        await group_restored(kit, info, images, was)
        assert info.receipt is not None
        assert (info.receipt.verified, info.receipt.compared_bytes) == (True, 4 * SIZE)
        assert [one.compared_bytes for one in info.receipt.restored] == [2 * SIZE, 2 * SIZE]


async def test_the_first_of_a_group_that_differs_is_named(tmp_path: Path) -> None:
    async with group_backed_up(tmp_path) as (kit, images, _):
        kit.meanwhile["step verify-first begins"] = spoil(kit, "a", "first-log", 200)
        info = await kit.back(verify=True)
        assert (info.state, info.step) == (JobState.FAILED, "verify-first")
        assert "'log': the two sides of 'remote-log' differ" in info.error
        assert kit.a.image("first") == images["ds"]
        assert kit.released == {"ds": info.id, "log": info.id}
        assert kit.a.pair("remote").state is S.PAIR
