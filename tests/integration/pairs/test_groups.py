"""Consistency groups: all pairs part at one instant, or none does (law L11)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.pair.messages import SplitDone
from controller.pair.owner import PairOwner
from tests.integration.pairs.states import BLOCK, refused
from tests.rig import Running, eventually, linked, relink, two_nodes, unlinked, write

S = m.PairState
PAIRS = 8
SIZE = 1 << 20
NAMES = [f"p{number}" for number in range(PAIRS)]
SPLIT = m.GroupSplit(name="g", label="monday")
RESYNC = m.GroupResync(name="g")


@asynccontextmanager
async def group(directory: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Eight pairs in sync, as the group 'g'."""
    async with two_nodes(directory) as (a, b):
        for number, name in enumerate(NAMES):
            await a.do("volume.create", m.VolumeCreate(name=f"first{number}", size_bytes=SIZE))
            await b.do("volume.create", m.VolumeCreate(name=f"second{number}", size_bytes=SIZE))
            await a.do(
                "pair.create",
                m.PairCreate(
                    name=name,
                    kind=m.PairKind.REMOTE,
                    p_volume=f"first{number}",
                    s_volume=f"second{number}",
                    peer="b",
                ),
            )
        for name in NAMES:
            await a.until(name, S.PAIR)
            await b.until(name, S.PAIR)
        await a.do("group.create", m.GroupCreate(name="g", pairs=NAMES))
        yield a, b


class Ledger:
    """A host whose every write goes to another volume and waits for the one before it."""

    def __init__(self, node: Running) -> None:
        self.node = node
        self.written = 0
        self._task = asyncio.create_task(self._write())
        self._ended = False

    async def _write(self) -> None:
        while not self._ended:
            number = self.written
            data = number.to_bytes(8, "little") * (BLOCK // 8)
            place = number // PAIRS % (SIZE // BLOCK) * BLOCK
            await write(self.node.volume(f"first{number % PAIRS}"), place, data)
            self.written = number + 1
            await asyncio.sleep(0)  # a write that was done at once has let nobody else run

    async def reaches(self, count: int) -> None:
        """Wait for so many writes in all."""
        await eventually(lambda: self.written >= count or self._task.done())

    async def end(self) -> None:
        self._ended = True
        await self._task


def newest(image: bytes) -> int:
    """The largest number in a volume; -1 in an empty one."""
    found = [int.from_bytes(image[at : at + 8], "little") for at in range(0, len(image), BLOCK)]
    return max((number for number in found if number), default=-1)


def one_instant(node: Running, began: int, ended: int, volume: str = "second") -> int:
    """What the S-VOLs hold is the ledger up to one write; that write's number."""
    last = max(newest(node.image(f"{volume}{number}")) for number in range(PAIRS))
    for number in range(PAIRS):
        expected = last - (last - number) % PAIRS
        found = newest(node.image(f"{volume}{number}"))
        assert found == (expected if expected > 0 else -1), (number, last)
    assert began - 1 <= last <= ended
    return last


def states(node: Running) -> set[m.PairState]:
    return {node.pair(name).state for name in NAMES}


async def test_a_group_under_load_parts_between_two_writes(tmp_path: Path) -> None:
    async with group(tmp_path) as (a, b):
        ledger = Ledger(a)
        for round_ in range(1, 4):
            await ledger.reaches(150 * round_)
            began = ledger.written
            assert (await a.do("group.split", SPLIT)).verdict is Verdict.ACCEPTED
            ended = ledger.written
            assert (states(a), states(b)) == ({S.PSUS}, {S.SSUS})
            assert {a.pair(name).split_label for name in NAMES} == {"monday"}
            one_instant(b, began, ended)
            assert (await a.do("group.split", SPLIT)).verdict is Verdict.NO_OP
            await ledger.reaches(ended + 20)
            assert (await a.do("group.resync", RESYNC)).verdict is Verdict.ACCEPTED
            for name in NAMES:
                await a.until(name, S.PAIR)
                await b.until(name, S.PAIR)
            assert (await a.do("group.resync", RESYNC)).verdict is Verdict.NO_OP
        await ledger.end()
        for number in range(PAIRS):
            assert a.image(f"first{number}") == b.image(f"second{number}")


@pytest.mark.parametrize("seed", range(8))
async def test_a_link_that_breaks_meanwhile_leaves_all_split_or_none(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    async with group(tmp_path) as (a, b):
        ledger = Ledger(a)
        await ledger.reaches(100)
        began = ledger.written
        command = asyncio.create_task(a.do("group.split", SPLIT))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        a.cut_link()
        outcome = (await asyncio.gather(command, return_exceptions=True))[0]
        ended = ledger.written
        await linked(a, b)
        if isinstance(outcome, BaseException):
            assert getattr(outcome, "code", None) in (Code.NO_PEER, Code.WRONG_STATE), outcome
            for name in NAMES:
                await a.until(name, S.PAIR)
        else:
            for name in NAMES:
                await b.until(name, S.SSUS)
            one_instant(b, began, ended)
        await ledger.end()


async def test_a_side_that_never_confirms_leaves_none_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with group(tmp_path) as (a, b):
        real = PairOwner.message

        def message(owner: PairOwner, arrived: object) -> None:
            if not (owner.record.name == "p5" and isinstance(arrived, SplitDone)):
                real(owner, arrived)  # type: ignore[arg-type]

        monkeypatch.setattr(PairOwner, "message", message)
        error = await refused(a, "group.split", SPLIT.model_copy(update={"deadline_s": 0.2}))
        assert error.code is Code.TIMEOUT
        assert "p5" in error.message
        for name in NAMES:
            if name != "p5":
                await a.until(name, S.PAIR)
        monkeypatch.undo()
        a.cut_link()
        for name in NAMES:
            await a.until(name, S.PAIR)
            await b.until(name, S.PAIR)
        assert {a.pair(name).split_label for name in NAMES} == {""}


async def test_a_group_that_is_not_whole_is_refused_with_nothing_changed(tmp_path: Path) -> None:
    async with group(tmp_path) as (a, b):
        await a.do("pair.split", m.PairSplit(name="p3"))
        error = await refused(a, "group.split", SPLIT)
        assert error.code is Code.WRONG_STATE
        assert "p3" in error.message
        assert states(a) == {S.PAIR, S.PSUS}
        await a.do("group.resync", RESYNC)
        await a.until("p3", S.PAIR)
        await unlinked(a, b)
        await refused(a, "group.split", SPLIT)
        assert states(a) == {S.PSUE}
        await relink(a, b)
        for name in NAMES:
            await a.until(name, S.PAIR)
        await a.do("pair.delete", m.PairDelete(name="p7"))
        error = await refused(a, "group.split", SPLIT)
        assert error.code is Code.NOT_FOUND


async def test_the_way_back_of_a_group(tmp_path: Path) -> None:
    async with group(tmp_path) as (a, b):
        await a.do("group.split", SPLIT.model_copy(update={"writable": True}))
        for number in range(PAIRS):
            await write(b.volume(f"second{number}"), 0, b"r" * BLOCK)
        a.logged_in("first4", "iqn.2026-11.test:host")
        back = m.GroupResync(name="g", direction=m.Direction.REVERSE)
        error = await refused(a, "group.resync", back)
        assert error.code is Code.IN_USE
        assert states(a) == {S.PSUS}
        a.logged_in("first4")
        await a.do("group.resync", back)
        for number, name in enumerate(NAMES):
            await a.until(name, S.PAIR)
            assert a.image(f"first{number}")[:BLOCK] == b"r" * BLOCK


async def test_groups_are_named_listed_kept_and_forgotten(tmp_path: Path) -> None:
    async with group(tmp_path) as (a, b):
        again = m.GroupCreate(name="g", pairs=NAMES[::-1])
        assert (await a.do("group.create", again)).verdict is Verdict.NO_OP
        error = await refused(a, "group.create", m.GroupCreate(name="g", pairs=NAMES[:2]))
        assert error.code is Code.EXISTS
        error = await refused(b, "group.create", m.GroupCreate(name="h", pairs=NAMES))
        assert (error.code, "'a'" in error.next_step) == (Code.BAD_REQUEST, True)
        await refused(a, "group.create", m.GroupCreate(name="h", pairs=["p0", "nothing"]))
        listed = await a.do("group.list", m.Empty())
        assert isinstance(listed.result, m.GroupList)
        (info,) = listed.result.groups
        assert (info.name, info.pairs, set(info.states.values())) == ("g", NAMES, {S.PAIR})
        for verdict in (Verdict.ACCEPTED, Verdict.NO_OP):
            assert (await a.do("group.delete", m.Named(name="g"))).verdict is verdict
        assert (await refused(a, "group.show", m.Named(name="g"))).code is Code.NOT_FOUND
        assert states(a) == {S.PAIR}
