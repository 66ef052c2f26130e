"""A backup's mark for a group: all thirds hold one instant and are one backup, or none is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.groups import LocalMark
from controller.link.transport import Peer
from controller.pair.messages import Marked
from controller.pair.owner import PairOwner
from tests.integration.pairs.states import refused
from tests.integration.pairs.test_groups import (
    NAMES,
    PAIRS,
    SIZE,
    Ledger,
    group,
    one_instant,
    states,
)
from tests.rig import Running, linked, start_node

S = m.PairState
LOCALS = [f"l{number}" for number in range(PAIRS)]


def marks(instant: str, **more: object) -> m.GroupMark:
    each = [
        LocalMark(remote_pair=pair, local_pair=local, number=3)
        for pair, local in zip(NAMES, LOCALS, strict=True)
    ]
    fields: dict[str, object] = {"name": "g", "marks": each, "label": "monday", "at": 7.5}
    return m.GroupMark.model_validate(fields | {"instant": instant, **more})


def settle(instant: str, *, keep: bool = True) -> m.BackupSettle:
    return m.BackupSettle(instant=instant, local_pairs=LOCALS, label="monday", keep=keep)


@asynccontextmanager
async def thirds(directory: Path) -> AsyncIterator[tuple[Running, Running]]:
    """The group of eight pairs, with a third volume behind each."""
    async with group(directory) as (a, b):
        for number, name in enumerate(LOCALS):
            await b.do("volume.create", m.VolumeCreate(name=f"third{number}", size_bytes=SIZE))
            params = m.PairCreate(
                name=name,
                kind=m.PairKind.LOCAL,
                p_volume=f"second{number}",
                s_volume=f"third{number}",
            )
            await b.do("pair.create", params)
        await all_in(b, LOCALS, S.PAIR)
        yield a, b


async def all_in(node: Running, names: list[str], state: m.PairState) -> None:
    for name in names:
        await node.until(name, state)


def kept(node: Running) -> set[tuple[str, bool]]:
    """The labels of the local pairs that are split, and whether those are backups."""
    infos = [node.pair(name) for name in LOCALS]
    return {(i.split_label, not i.guarded) for i in infos if i.state is S.PSUS}


@pytest.mark.parametrize("split_remote", [False, True])
async def test_thirds_of_a_running_load_hold_one_instant(
    tmp_path: Path, split_remote: bool
) -> None:
    async with thirds(tmp_path) as (a, b):
        ledger = Ledger(a)
        await ledger.reaches(150)
        began = ledger.written
        await a.do("group.mark", marks("one", split_remote=split_remote))
        ended = ledger.written
        assert kept(b) == {("", False)}, "no backup yet"
        await ledger.reaches(ended + 50)
        assert (await b.do("backup.settle", settle("one"))).verdict is Verdict.ACCEPTED
        assert (await b.do("backup.settle", settle("one"))).verdict is Verdict.NO_OP
        assert kept(b) == {("monday", True)}
        info = b.pair("l5")
        assert (info.split_at, info.backup_number, info.instant) == (7.5, 3, "one")
        await ledger.end()
        last = one_instant(b, began, ended, "third")
        if split_remote:
            assert one_instant(b, began, ended, "second") == last
        assert states(a) == {S.PSUS if split_remote else S.PAIR}


@pytest.mark.parametrize("split_remote", [False, True])
async def test_a_slot_that_cannot_be_split_leaves_no_backup_anywhere(
    tmp_path: Path, split_remote: bool
) -> None:
    async with thirds(tmp_path) as (a, b):
        await b.do("pair.split", m.PairSplit(name="l3", label="old"))
        ledger = Ledger(a)
        await ledger.reaches(20)
        error = await refused(a, "group.mark", marks("one", split_remote=split_remote))
        assert (error.code, "'p3'" in error.message, "'l3'" in error.message) == (
            Code.NO_PEER, True, True,
        )  # fmt: skip
        await all_in(a, NAMES, S.PAIR)
        await all_in(b, [name for name in LOCALS if name != "l3"], S.PAIR)
        assert kept(b) == {("old", True)}
        with pytest.raises(RejectedError, match="does not hold that instant"):
            await b.do("backup.settle", settle("one"))
        assert kept(b) == {("old", True)}
        await ledger.end()


async def test_an_answer_that_comes_too_late_leaves_no_backup_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with thirds(tmp_path) as (a, b):
        real = PairOwner.message

        def message(owner: PairOwner, arrived: object) -> None:
            if not (owner.record.name == "p5" and isinstance(arrived, Marked)):
                real(owner, arrived)  # type: ignore[arg-type]

        monkeypatch.setattr(PairOwner, "message", message)
        error = await refused(a, "group.mark", marks("one", deadline_s=5.0))
        assert (error.code, "'p5' did not confirm in time" in error.message) == (Code.NO_PEER, True)
        monkeypatch.undo()
        await all_in(b, LOCALS, S.PAIR)
        assert states(a) == {S.PAIR}


@pytest.mark.parametrize("seed", range(10))
async def test_a_link_that_breaks_meanwhile_leaves_one_backup_or_none(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    split_remote = seed % 2 == 1
    async with thirds(tmp_path) as (a, b):
        ledger = Ledger(a)
        await ledger.reaches(50)
        began = ledger.written
        command = asyncio.create_task(a.do("group.mark", marks("one", split_remote=split_remote)))
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        (a if seed % 3 else b).cut_link()
        outcome = (await asyncio.gather(command, return_exceptions=True))[0]
        ended = ledger.written
        kept_it = False
        if not isinstance(outcome, BaseException):
            settled = (
                await asyncio.gather(b.do("backup.settle", settle("one")), return_exceptions=True)
            )[0]
            kept_it = not isinstance(settled, BaseException)
            assert kept_it or getattr(settled, "code", None) is Code.WRONG_STATE, settled
        await linked(a, b)
        if kept_it:
            assert kept(b) == {("monday", True)}
            assert len([n for n in LOCALS if b.pair(n).state is S.PSUS]) == PAIRS
            one_instant(b, began, ended, "third")
        else:
            if not isinstance(outcome, BaseException) and split_remote:
                await a.do("group.resync", m.GroupResync(name="g"))
            await all_in(a, NAMES, S.PAIR)
            await all_in(b, LOCALS, S.PAIR)
            assert {b.pair(name).split_label for name in LOCALS} == {""}
        await ledger.end()


async def test_what_nobody_kept_follows_again_when_the_link_was_away(tmp_path: Path) -> None:
    async with thirds(tmp_path) as (a, b):
        await a.do("group.mark", marks("one"))
        a.cut_link()
        await all_in(b, LOCALS, S.PAIR)
        with pytest.raises(RejectedError, match="that instant any more"):
            await b.do("backup.settle", settle("one"))
        await a.do("group.mark", marks("two"))
        with pytest.raises(RejectedError, match="that instant any more"):
            await b.do("backup.settle", settle("one"))
        await b.do("backup.settle", settle("two"))
        assert kept(b) == {("monday", True)}
        a.cut_link()
        await linked(a, b)
        await all_in(b, NAMES, S.PAIR)
        assert kept(b) == {("monday", True)}, "what was kept stays"


async def test_what_an_operator_split_by_hand_meanwhile_is_part_of_it(tmp_path: Path) -> None:
    async with thirds(tmp_path) as (a, b):
        await a.do("group.mark", marks("one"))
        for name in LOCALS:
            await b.do("pair.split", m.PairSplit(name=name))
        assert kept(b) == {("", True)}
        assert (await b.do("backup.settle", settle("one"))).verdict is Verdict.ACCEPTED
        assert kept(b) == {("monday", True)}
        assert (await b.do("backup.settle", settle("one"))).verdict is Verdict.NO_OP


async def test_a_backup_is_given_up_as_one(tmp_path: Path) -> None:
    async with thirds(tmp_path) as (a, b):
        await a.do("group.mark", marks("one"))
        await b.do("backup.settle", settle("one"))
        given_up = settle("two", keep=False)
        assert (await b.do("backup.settle", given_up)).verdict is Verdict.NO_OP
        assert kept(b) == {("monday", True)}
        assert (await b.do("backup.settle", settle("one", keep=False))).verdict is Verdict.ACCEPTED
        assert ("monday", True) not in kept(b)
        await all_in(b, LOCALS, S.PAIR)


@pytest.mark.parametrize("keep", [False, True])
async def test_a_restart_keeps_all_of_it_or_none(tmp_path: Path, keep: bool) -> None:
    async with thirds(tmp_path) as (a, b):
        await a.do("group.mark", marks("one"))
        if keep:
            await b.do("backup.settle", settle("one"))
    again = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)])
    try:
        assert kept(again) == ({("monday", True)} if keep else {("", False)})
        if not keep:
            await again.do("backup.settle", settle("one", keep=False))
            await all_in(again, LOCALS, S.PAIR)
    finally:
        await again.stop()


async def test_marks_that_are_not_the_groups_are_refused(tmp_path: Path) -> None:
    async with group(tmp_path) as (a, _):
        few = marks("one")
        few = few.model_copy(update={"marks": few.marks[1:]})
        error = await refused(a, "group.mark", few)
        assert (error.code, "p0" in error.message) == (Code.BAD_REQUEST, True)


@pytest.mark.parametrize("turns", range(12))
async def test_a_pair_that_begins_to_follow_takes_the_others_along(
    turns: int, tmp_path: Path
) -> None:
    """Whoever keeps a backup in that moment has all of it, or nothing."""
    async with thirds(tmp_path) as (a, b):
        await a.do("group.mark", marks("one"))
        owner = b.node.pairs.local("l6")
        assert owner is not None
        owner.resume_guarded()
        for _ in range(turns):
            await asyncio.sleep(0)
        kept_it = True
        try:
            await b.do("backup.settle", settle("one"))
        except RejectedError:
            kept_it = False
        await owner.caught_up()
        if kept_it:
            assert kept(b) == {("monday", True)}
            assert {b.pair(name).state for name in LOCALS} == {S.PSUS}
        else:
            assert ("monday", True) not in kept(b)
