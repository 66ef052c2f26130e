"""Whatever breaks at whatever boundary of a restore: it is done, or undone, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from hostagent.jobs.dropping import undo_params
from hostagent.jobs.restore import RESTORE
from hostagent.jobs.slots import choose_undo
from hostagent.jobs.survey import survey
from hostagent.jobs.whole import WHOLE
from tests.integration.backups.kit import BLOCK, S
from tests.integration.boundaries.kit import (
    EVERYTHING,
    LATE_S,
    RESTORED_BLOCKS,
    SOON_S,
    BreakingRig,
    What,
    breaking_rig,
)
from tests.rig import eventually

COPY_BACK = [
    "primary says Report",
    "secondary says Report",
    "primary says Reverse",
    "secondary says Started",
    "secondary says Finish",
    "primary says Finished",
]
"""How the reverse resync is agreed, and ended."""
MARK = ["primary says Mark", "secondary says Marked"]
SPLIT = ["primary says Split", "secondary says SplitDone"]
FILES: dict[str, object] = {
    "paths": ["a"],
    "to": "",
    "conflict": "overwrite",
    "dry_run": False,
    "force": False,
    "from_backup": "",
}


def cases(moments: list[str]) -> list[tuple[str, What, float]]:
    """Away for long at each moment; for a short time only while it is agreed what is copied."""
    found = [(moment, what, LATE_S) for moment in moments for what in EVERYTHING]
    return found + [(one, what, SOON_S) for one in COPY_BACK[2:] for what in EVERYTHING]


async def backed_up(kit: BreakingRig) -> tuple[bytes, bytes]:
    """A backup, and writes since: the first volume as it was then, and as it is now."""
    await kit.fill(0, 20, "before")
    assert (await kit.backup("good")).state is JobState.DONE
    await kit.fill(4, 10, "after")
    assert kit.at_mark is not None
    return kit.at_mark, kit.a.image("first")


async def ended(kit: BreakingRig, info: m.JobInfo) -> m.JobInfo:
    """What was given up where only forward is possible names the one command that goes on."""
    assert not kit.at, f"it never came to that: {kit.moments}"
    await kit.at_rest()
    if info.state is JobState.FAILED and "nothing is undone" in info.error:
        assert f"trilun job resume {info.id}" in info.next_step
        engine = kit.engine()
        await engine.load({"ds": kit.config})
        await engine.resume(info.id)
        info = await engine.wait(info.id)
        assert info.state is JobState.DONE, info
    assert kit.released_for == "", "host 1 has its volume"
    assert not kit.files.mounted
    await kit.in_sync()
    assert kit.a.image("first") == kit.b.image("second")
    local = kit.b.pair("local")
    assert (local.state, local.split_label, local.guarded) == (S.PSUS, "good", False)
    if info.state is JobState.FAILED:
        assert info.next_step
        assert "undoing" not in info.error
    return info


async def kept(kit: BreakingRig, info: m.JobInfo, then: bytes, now: bytes) -> None:
    """A whole volume came back, and the other slot has what it overwrote; or neither is so."""
    slot = kit.b.pair("local-2")
    if info.state is JobState.DONE:
        assert kit.a.image("first") == then
        assert (slot.state, slot.split_label) == (S.PSUS, f"before-{info.id}")
    else:
        assert kit.a.image("first") == now
        await kit.b.until("local-2", S.PAIR)
    assert kit.b.image("third-2") == now
    assert kit.b.image("third") == then


WHOLES = [f"step {step} begins" for step in WHOLE.names] + COPY_BACK + MARK


@pytest.mark.parametrize(("moment", "what", "away_s"), cases(WHOLES))
async def test_a_whole_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: What, away_s: float
) -> None:
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        then, now = await backed_up(kit)
        kit.at, kit.what, kit.away_s = moment, what, away_s
        await kept(kit, await ended(kit, await kit.restore()), then, now)


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("step", ["resync-second", "split", "release", "fill-undo"])
async def test_a_whole_volume_that_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, what: What
) -> None:
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        then, now = await backed_up(kit)

        async def fail() -> None:
            kit.faults["pair.split"] = [RejectedError(Code.HOST_ERROR, "broken", "mend it")]

        kit.meanwhile["step keep begins"] = fail
        kit.at, kit.what, kit.away_s = f"undo {step} begins", what, LATE_S
        info = await ended(kit, await kit.restore())
        assert info.state is JobState.FAILED
        await kept(kit, info, then, now)


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("moment", ["step keep begins", *COPY_BACK[2:5]])
async def test_the_undo_of_a_whole_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: What
) -> None:
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        then, now = await backed_up(kit)
        done = await kit.restore()
        await kit.fill(30, 3, "since")
        since = kit.a.image("first")
        asked = m.UndoStart(data_set="ds", job=done.id)
        slot = choose_undo(await survey(kit, kit.config), done.id)
        kit.at, kit.what, kit.away_s = moment, what, LATE_S
        info = await ended(kit, await kit.restore(**undo_params(slot, asked, [done])))
        assert kit.a.image("first") == (now if info.state is JobState.DONE else since)
        assert kit.b.image("third-2") == now, "it can be asked for again"
        assert kit.b.pair("local-2").split_label == f"before-{done.id}"
        assert kit.b.image("third") == then


RESTORES = [f"step {step} begins" for step in RESTORE.names] + COPY_BACK[2:4] + SPLIT


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("moment", RESTORES)
async def test_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: What
) -> None:
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        kit.files.nothing_else = False
        then, now = await backed_up(kit)
        expected = bytearray(now)
        for block in RESTORED_BLOCKS:
            at = slice(block * BLOCK, (block + 1) * BLOCK)
            expected[at] = then[at]
        kit.at, kit.what, kit.away_s = moment, what, LATE_S
        info = await ended(kit, await kit.run(JobKind.RESTORE, **FILES))
        assert kit.a.image("first") == (expected if info.state is JobState.DONE else now)
        assert kit.b.image("third") == then


async def test_a_view_that_a_dead_host_is_still_logged_in_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host 2 has lost power; its target hasn't missed it yet when the job goes on."""
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        kit.files.nothing_else = False
        await backed_up(kit)
        held = RejectedError(Code.IN_USE, "h2 is logged in to the view", "log it out")
        kit.faults["view.close"] = [held] * 4
        info = await ended(kit, await kit.run(JobKind.RESTORE, **FILES))
        assert info.state is JobState.DONE


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("step", ["split", "mount-second", "release", "conflicts", "open-view"])
async def test_files_that_are_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, what: What
) -> None:
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        kit.files.nothing_else = False
        then, now = await backed_up(kit)

        async def fail() -> None:
            raise RejectedError(Code.HOST_ERROR, "broken", "mend it")

        kit.meanwhile["step unmount-second begins"] = fail
        kit.at, kit.what, kit.away_s = f"undo {step} begins", what, LATE_S
        info = await ended(kit, await kit.run(JobKind.RESTORE, **FILES))
        assert info.state is JobState.FAILED
        assert kit.a.image("first") == now
        assert kit.b.image("third") == then


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (JobKind.WHOLE, "resync-second"),
        (JobKind.WHOLE, "resync"),
        (JobKind.RESTORE, "copy"),
    ],
)
async def test_host_1_does_not_wait_for_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: JobKind, step: str, cancelled: bool
) -> None:
    """What is undone waits for the link for an hour; the first volume was never touched."""
    async with breaking_rig(tmp_path, monkeypatch) as kit:
        kit.files.nothing_else = False
        _, now = await backed_up(kit)
        kit.at, kit.what, kit.away_s = f"step {step} begins", "link", 4000.0
        back_at: list[float] = []
        engine = kit.engine()
        asked = {"from_backup": "", "dry_run": False, "force": False}
        params: dict[str, object] = FILES if kind is JobKind.RESTORE else dict(asked)
        info, _ = await engine.begin(kind, [kit.config], "long", params)

        async def reclaimed() -> None:
            back_at.append(kit.clock.now_s)

        kit.meanwhile["after fs.reclaim"] = reclaimed
        began_s = kit.clock.now_s
        if cancelled:
            await eventually(lambda: kit.dead and not kit.a.node.links.connected("b"))
            await engine.cancel(info.id)
        info = await engine.wait(info.id)
        assert info.state is JobState.FAILED
        assert "undoing 'split' failed" in info.error
        assert "trilun pair resync remote --forward" in info.next_step
        assert back_at
        assert back_at[0] - began_s < 200
        assert kit.released_for == ""
        assert kit.a.image("first") == now
        assert kit.a.volume("first").access.value == "read_write"
        await kit.mend()
        await kit.a.do("pair.resync", m.PairResync(name="remote", direction=m.Direction.FORWARD))
        await kit.in_sync()
        assert kit.b.image("second") == now
