"""Writes of a pair found split are not thrown away before somebody has said so."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.messages import JobKind, JobState
from hostagent.copying.comparing import Compared
from tests.integration.backups.kit import BLOCK, Rig, S, rig

FILES: dict[str, object] = {
    "paths": ["a"],
    "to": "",
    "conflict": "overwrite",
    "dry_run": False,
    "force": False,
    "from_backup": "",
}
KINDS = [JobKind.RESTORE, JobKind.WHOLE]


async def found_split(kit: Rig, *, written: bool) -> bytes:
    """A pair that was split on a Monday, with or without writes since; what the first holds."""
    await kit.fill(0, 20, "before")
    assert (await kit.backup("good")).state is JobState.DONE
    await kit.a.do("pair.split", m.PairSplit(name="remote", label="apart", at=1.7e9))
    if written:
        await kit.fill(30, 5, "apart")
    return kit.a.image("first")


async def restore(kit: Rig, kind: JobKind, **more: object) -> m.JobInfo:
    more = {"discard_writes": False, **more}
    if kind is JobKind.WHOLE:
        return await kit.restore("", **more)
    kit.files.compare = _same  # type: ignore[method-assign]
    return await kit.run(kind, **{**FILES, **more})


async def _same(*_: object) -> Compared:
    return Compared(10)


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_refused_before_anything_is_touched(tmp_path: Path, kind: JobKind) -> None:
    async with rig(tmp_path, slots=2) as kit:
        now = await found_split(kit, written=True)
        before = len(kit.calls)
        info = await restore(kit, kind)
        assert (info.state, info.code) == (JobState.FAILED, Code.WRONG_STATE)
        assert info.error == (
            f"plan: {5 * BLOCK} bytes in blocks that were written on 'first' since remote pair "
            "'remote' was split (2023-11-14 22:13:20 UTC) would be lost"
        )
        assert info.next_step == (
            "allow that with --discard-writes; or keep them: `trilun pair resync remote "
            "--forward`, `trilun pair wait remote PAIR`, then restore"
        )
        assert {verb for verb, _ in kit.calls[before:]} <= {"pair.show", "volume.show"}
        assert kit.a.pair("remote").state is S.PSUS
        assert kit.a.image("first") == now


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dry_run_says_what_it_will_take(tmp_path: Path, kind: JobKind) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await found_split(kit, written=True)
        info = await restore(kit, kind, dry_run=True)
        assert info.state is JobState.DONE, info
        assert info.plan is not None
        assert info.plan.discarded_bytes == 5 * BLOCK
        assert "--discard-writes" in info.plan.needs
        allowed = (await restore(kit, kind, dry_run=True, discard_writes=True)).plan
        assert allowed is not None
        assert (allowed.discarded_bytes, allowed.needs) == (5 * BLOCK, "")


@pytest.mark.parametrize(("written", "allowed"), [(True, True), (False, False)])
async def test_it_is_done_where_it_is_allowed_or_nothing_is_lost(
    tmp_path: Path, written: bool, allowed: bool
) -> None:
    async with rig(tmp_path, slots=2) as kit:
        await found_split(kit, written=written)
        info = await restore(kit, JobKind.WHOLE, discard_writes=allowed)
        assert info.state is JobState.DONE, info
        await kit.in_sync()
        assert kit.a.image("first") == kit.at_mark
