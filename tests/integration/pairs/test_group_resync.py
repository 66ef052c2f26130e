"""The resync of a group: all of its pairs begin, or none does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.pair import messages as msg
from controller.pair.inbox import Gate
from controller.pair.leader import Leader
from controller.pair.owner import PairOwner
from tests.integration.pairs.states import BLOCK, REVERSE, refused
from tests.rig import Running, eventually, relink, two_nodes, unlinked, write

S = m.PairState
SIZE = 1 << 20
NAMES = ["p0", "p1", "p2"]
RESYNC = m.GroupResync(name="g")
BACK = m.GroupResync(name="g", direction=REVERSE)
DIRECTIONS = [None, m.Direction.FORWARD, REVERSE]


@asynccontextmanager
async def split_group(
    directory: Path, *, writable: bool = True
) -> AsyncIterator[tuple[Running, Running]]:
    """Three pairs, split as the group 'g'; hosts have written to each P-VOL since."""
    async with two_nodes(directory) as (a, b):
        for number, name in enumerate(NAMES):
            p_volume, s_volume = f"first{number}", f"second{number}"
            await a.do("volume.create", m.VolumeCreate(name=p_volume, size_bytes=SIZE))
            await b.do("volume.create", m.VolumeCreate(name=s_volume, size_bytes=SIZE))
            await a.do(
                "pair.create",
                m.PairCreate(
                    name=name,
                    kind=m.PairKind.REMOTE,
                    p_volume=p_volume,
                    s_volume=s_volume,
                    peer="b",
                ),
            )
        for name in NAMES:
            await a.until(name, S.PAIR)
            await b.until(name, S.PAIR)
        await a.do("group.create", m.GroupCreate(name="g", pairs=NAMES))
        await a.do("group.split", m.GroupSplit(name="g", label="monday", writable=writable))
        for number in range(len(NAMES)):
            await write(a.volume(f"first{number}"), 0, b"p" * BLOCK)
        yield a, b


def images(a: Running, b: Running) -> list[bytes]:
    numbers = range(len(NAMES))
    return [each for n in numbers for each in (a.image(f"first{n}"), b.image(f"second{n}"))]


def shown(a: Running, b: Running) -> list[tuple[m.PairState, str]]:
    return [
        (node.pair(name).state, node.pair(name).split_label) for node in (a, b) for name in NAMES
    ]


async def all_in_sync(a: Running, b: Running) -> None:
    for number, name in enumerate(NAMES):
        await a.until(name, S.PAIR)
        await b.until(name, S.PAIR)
        assert a.image(f"first{number}") == b.image(f"second{number}")


async def unchanged(a: Running, b: Running, params: m.GroupResync, code: Code, pair: str) -> str:
    """The command is refused for this pair's sake, and no pair has begun; its next step."""
    before, were = images(a, b), shown(a, b)
    error = await refused(a, "group.resync", params)
    assert error.code is code, error.message
    assert pair in error.message
    for node in (a, b):
        for name in NAMES:
            await node.node.pairs.get(name).caught_up()
    assert images(a, b) == before
    assert shown(a, b) == were
    return error.next_step


async def test_a_split_brain_of_one_refuses_all(tmp_path: Path) -> None:
    async with split_group(tmp_path) as (a, b):
        await write(b.volume("second1"), BLOCK, b"s" * BLOCK)
        step = await unchanged(a, b, RESYNC, Code.SPLIT_BRAIN, "p1")
        assert "trilun pair resolve p1" in step
        # Hosts were not shut out, and nothing waits to begin.
        for number in range(len(NAMES)):
            await write(b.volume(f"second{number}"), 2 * BLOCK, b"s" * BLOCK)
        await a.do("group.resync", BACK)
        await all_in_sync(a, b)
        assert a.image("first1")[BLOCK : 3 * BLOCK] == b"s" * 2 * BLOCK


async def test_a_direction_that_one_needs_refuses_all(tmp_path: Path) -> None:
    async with split_group(tmp_path) as (a, b):
        await a.do("pair.resync", m.PairResync(name="p2"))
        await a.until("p2", S.PAIR)
        await a.do("pair.split", m.PairSplit(name="p2", writable=True))
        await b.until("p2", S.SSUS)
        await write(b.volume("second2"), BLOCK, b"s" * BLOCK)
        step = await unchanged(a, b, RESYNC, Code.DIRECTION_NEEDED, "p2")
        assert "--reverse" in step
        await a.do("group.resync", m.GroupResync(name="g", direction=m.Direction.FORWARD))
        await all_in_sync(a, b)


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_a_volume_in_use_refuses_all(direction: m.Direction | None, tmp_path: Path) -> None:
    async with split_group(tmp_path, writable=False) as (a, b):
        await b.do("view.open", m.ViewOpen(volume="second1", view="look"))
        asked = m.GroupResync(name="g", direction=direction)
        await unchanged(a, b, asked, Code.IN_USE, "second1")
        await b.do("view.close", m.Named(name="look"))
        assert (await a.do("group.resync", asked)).verdict is Verdict.ACCEPTED
        await all_in_sync(a, b)


async def test_hosts_on_one_p_vol_refuse_a_way_back_of_all(tmp_path: Path) -> None:
    async with split_group(tmp_path) as (a, b):
        a.logged_in("first2", "iqn.2026-11.test:host")
        await unchanged(a, b, BACK, Code.IN_USE, "first2")
        await a.do("group.resync", BACK.model_copy(update={"force": True}))
        await all_in_sync(a, b)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("behind", [False, True])
async def test_a_link_that_goes_in_between_leaves_all_split(
    behind: bool,
    direction: m.Direction | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the last of them knows its direction, or right behind it."""
    async with split_group(tmp_path) as (a, b):
        before, were = images(a, b), shown(a, b)
        real = Leader.ask_report

        async def ask_report(leader: Leader) -> msg.Report:
            last = leader._record.name == "p2"
            if last and not behind:
                await unlinked(a, b)
            report = await real(leader)
            if last and behind:
                await unlinked(a, b)
            return report

        monkeypatch.setattr(Leader, "ask_report", ask_report)
        asked = m.GroupResync(name="g", direction=direction)
        error = await refused(a, "group.resync", asked)
        assert error.code is Code.NO_PEER
        monkeypatch.undo()
        assert images(a, b) == before
        await relink(a, b)
        await eventually(lambda: shown(a, b) == were)
        for name in NAMES:
            await a.node.pairs.get(name).caught_up()
        assert images(a, b) == before
        await a.do("group.resync", asked)
        await all_in_sync(a, b)


async def test_a_side_that_does_not_answer_by_the_deadline_refuses_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with split_group(tmp_path) as (a, b):
        real = PairOwner.message

        def message(owner: PairOwner, arrived: msg.PairMessage) -> None:
            if owner.services.node != "b" or owner.record.name != "p1":
                real(owner, arrived)

        monkeypatch.setattr(PairOwner, "message", message)
        before, were = images(a, b), shown(a, b)
        late = RESYNC.model_copy(update={"deadline_s": 0.2})
        error = await refused(a, "group.resync", late)
        assert (error.code, "p1" in error.message) == (Code.TIMEOUT, True)
        monkeypatch.undo()
        a.cut_link()
        await eventually(lambda: shown(a, b) == were)
        for name in NAMES:
            await a.node.pairs.get(name).caught_up()
        assert images(a, b) == before
        await eventually(lambda: a.node.links.connected("b"))
        await a.do("group.resync", RESYNC)
        await all_in_sync(a, b)


async def test_what_comes_behind_the_deadline_begins_nothing(tmp_path: Path) -> None:
    """A pair that was busy with something else finds the command when it is over."""
    async with split_group(tmp_path) as (a, b):
        owner, free = a.node.pairs.get("p1"), asyncio.Event()

        async def busy() -> None:
            await free.wait()

        owner._inner["caught up"] = busy
        waiting = asyncio.create_task(owner.caught_up())
        await asyncio.sleep(0)
        before, were = images(a, b), shown(a, b)
        late = RESYNC.model_copy(update={"deadline_s": 0.2})
        assert (await refused(a, "group.resync", late)).code is Code.TIMEOUT
        free.set()
        await waiting
        for name in NAMES:
            await a.node.pairs.get(name).caught_up()
        assert (images(a, b), shown(a, b)) == (before, were)


async def test_what_copies_already_is_left_alone(tmp_path: Path) -> None:
    async with split_group(tmp_path) as (a, b):
        await a.do("pair.resync", m.PairResync(name="p0"))
        await a.until("p0", S.PAIR)
        await write(b.volume("second2"), 0, b"s" * BLOCK)
        assert (await refused(a, "group.resync", RESYNC)).code is Code.SPLIT_BRAIN
        assert a.pair("p0").state is S.PAIR
        await a.do("pair.resolve", m.PairResolve(name="p2", discard="b"))
        assert (await a.do("group.resync", RESYNC)).verdict is Verdict.ACCEPTED
        await all_in_sync(a, b)
        assert (await a.do("group.resync", RESYNC)).verdict is Verdict.NO_OP


async def test_no_failure_is_left_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them fail behind the gate: the first is the answer, and the rest is no surprise."""
    async with split_group(tmp_path) as (a, _):
        stumbled: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: stumbled.append(context["message"])
        )
        opened = Gate.open

        def open_and_cut(gate: Gate) -> None:
            opened(gate)
            a.cut_link()

        monkeypatch.setattr(Gate, "open", open_and_cut)
        said = (await refused(a, "group.resync", RESYNC)).message
        assert "has begun" in said
        for name in NAMES:
            await a.node.pairs.get(name).caught_up()
        gc.collect()
        assert stumbled == []
