"""A swap whose offer has had no answer: nobody's hosts write, until it is known who leads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.pair import conversation
from controller.pair import messages as msg
from controller.pair.roles import Roles
from tests.integration.pairs.states import BLOCK, in_sync, refused
from tests.integration.pairs.test_restarts import HOWS, How, site
from tests.integration.pairs.test_roles import (
    SWAP,
    SWAP_BACK,
    SWAPPED,
    TAKEOVER,
    both_in,
    cannot_write,
    resync,
    roles,
)
from tests.rig import Running, eventually, read, relink, two_nodes, unlinked, write

S = m.PairState
KEEP = m.PairSwap(name="remote", to="a", force=True)


def lose(node: Running, kind: type[msg.Message]) -> None:
    """The next message of this kind never leaves that side of the pair."""
    talk = node.node.pairs.get("remote").talk
    send = talk.send

    def sent(message: msg.PairMessage) -> None:
        if isinstance(message, kind):
            talk.send = send  # type: ignore[method-assign]
        else:
            send(message)

    talk.send = sent  # type: ignore[method-assign]


async def offered(a: Running, b: Running, *, taken: bool) -> None:
    """The link goes while 'a' offers its role, which 'b' has taken or never heard of."""
    lose(b if taken else a, msg.Swapped if taken else msg.Swap)
    command = asyncio.create_task(a.do("pair.swap", SWAP))
    await eventually(lambda: a.node.pairs.get("remote").record.closed == "swapping")
    role = m.Role.P_VOL if taken else m.Role.S_VOL
    await eventually(lambda: b.pair("remote").role is role)
    await eventually(lambda: a.node.pairs.get("remote").talk.awaits(msg.Swapped))
    await unlinked(a, b)
    with pytest.raises(RejectedError):
        await command


async def test_an_offer_without_an_answer_says_that_writes_are_refused(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await offered(a, b, taken=False)
        await cannot_write(a, "first")
        info = a.pair("remote")
        assert info.state is S.PSUE
        assert "hosts' writes are refused" in info.reason
        assert "trilun pair swap remote --to a --force" in info.next_step
        for verb, params in (
            ("pair.split", m.PairSplit(name="remote")),
            ("pair.resync", m.PairResync(name="remote")),
            ("pair.swap", SWAP),
            ("pair.takeover", TAKEOVER),
        ):
            error = await refused(a, verb, params)
            assert error.code is Code.WRONG_STATE, verb
            assert "trilun pair swap remote --to a --force" in error.next_step, verb
        await cannot_write(a, "first")
        error = await refused(a, "pair.swap", SWAP_BACK)
        assert "--force" in error.next_step, "the other side may serve hosts by now"


async def test_the_old_primary_goes_on_alone_when_its_operator_says_so(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, b"1" * 20 * BLOCK)
        await offered(a, b, taken=False)
        assert (await a.do("pair.swap", KEEP)).verdict is Verdict.ACCEPTED
        assert (a.pair("remote").role, a.pair("remote").state) == (m.Role.P_VOL, S.PSUS)
        assert (await a.do("pair.swap", KEEP)).verdict is Verdict.NO_OP
        await write(a.volume("first"), 0, b"2" * 3 * BLOCK)
        await relink(a, b)
        await b.until("remote", S.SSUS)
        await resync(a)
        await both_in(a, b, S.PAIR)
        assert roles(a, b) == (m.Role.P_VOL, m.Role.S_VOL)
        assert a.pair("remote").resync_payload_bytes == 3 * BLOCK
        assert a.image("first") == b.image("second")
        await a.do("pair.swap", SWAP)
        await both_in(a, b, S.PAIR)
        assert roles(a, b) == SWAPPED


@pytest.mark.parametrize("mine", [True, False])
async def test_what_hosts_wrote_where_the_role_was_taken_is_given_up_by_name_only(
    mine: bool, tmp_path: Path
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await offered(a, b, taken=True)
        await write(b.volume("second"), 0, b"2" * BLOCK)
        await a.do("pair.swap", KEEP)
        if mine:
            await write(a.volume("first"), BLOCK, b"1" * BLOCK)
        await relink(a, b)
        await eventually(lambda: roles(a, b) == (m.Role.P_VOL, m.Role.S_VOL))
        await cannot_write(b, "second")
        await b.until("remote", S.PSUE)
        error = await refused(a, "pair.resync", m.PairResync(name="remote"))
        assert error.code is (Code.SPLIT_BRAIN if mine else Code.DIRECTION_NEEDED)
        await eventually(lambda: a.pair("remote").split_brain is mine)
        assert b.pair("remote").split_brain is mine
        assert await read(b.volume("second"), 0, BLOCK) == b"2" * BLOCK
        await resync(a, m.Direction.REVERSE)
        await both_in(a, b, S.PAIR)
        assert await read(a.volume("first"), 0, 2 * BLOCK) == b"2" * BLOCK + bytes(BLOCK)


@pytest.mark.parametrize("how", HOWS)
async def test_an_offer_without_an_answer_outlives_a_restart(how: How, tmp_path: Path) -> None:
    async with site(tmp_path, fence=m.Fence.DATA) as both:
        await write(both.a.volume("first"), 0, b"1" * BLOCK, fua=True)
        lose(both.a, msg.Swap)
        command = asyncio.create_task(both.a.do("pair.swap", SWAP))
        await eventually(lambda: both.a.node.pairs.get("remote").talk.awaits(msg.Swapped))
        await both.stop("b", "powerless")
        with pytest.raises(RejectedError):
            await command
        await both.restart("a", how)
        assert "hosts' writes are refused" in both.a.pair("remote").reason
        assert "--to a --force" in both.a.pair("remote").next_step
        await cannot_write(both.a, "first")
        await both.a.do("pair.swap", KEEP)
        await both.restart("a", how)
        await write(both.a.volume("first"), BLOCK, b"1" * BLOCK)
        await both.start("b")
        await both.linked()
        await both.b.until("remote", S.SSUS, S.PSUE)
        await resync(both.a)
        await both.in_sync()
        assert await read(both.b.volume("second"), 0, 2 * BLOCK) == b"1" * 2 * BLOCK


async def test_it_is_taken_back_only_while_the_other_side_can_not_be_asked(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        lose(b, msg.Swapped)
        command = asyncio.create_task(a.do("pair.swap", SWAP))
        await b.until("remote", S.PSUE)
        keep = asyncio.create_task(a.do("pair.swap", KEEP))
        await asyncio.sleep(0)
        a.node.pairs.get("remote").talk.lost("no answer")
        for asked in (command, keep):
            with pytest.raises(RejectedError):
                await asked
        await cannot_write(a, "first")


async def test_an_offer_that_was_never_made_closes_no_door(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        owner = a.node.pairs.get("remote")
        drained = owner.drained

        async def cut_meanwhile() -> None:
            await unlinked(a, b)
            await drained()

        owner.drained = cut_meanwhile  # type: ignore[method-assign]
        await refused(a, "pair.swap", SWAP)
        await write(a.volume("first"), 0, b"1" * BLOCK)
        assert "refused" not in a.pair("remote").reason


async def test_a_door_stays_shut_when_the_other_side_has_taken_over_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await offered(a, b, taken=False)
        await b.do("pair.takeover", TAKEOVER)
        opened: list[str] = []
        real = Roles._open_again

        async def open_again(roles: Roles) -> None:
            opened.append(roles._record.name)
            await real(roles)

        monkeypatch.setattr(Roles, "_open_again", open_again)
        await relink(a, b)
        await eventually(lambda: "taken over" in a.pair("remote").reason)
        assert not opened, "its hosts would begin a second version"
        await cannot_write(a, "first")


async def test_an_answer_that_comes_late_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The S-VOL's disk may take longer than anybody waits; the command again is no second offer."""
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        held = asyncio.Event()
        owner = b.node.pairs.get("remote")
        all_stored = owner.all_stored

        async def slowly() -> None:
            await held.wait()
            await all_stored()

        owner.all_stored = slowly  # type: ignore[method-assign]
        monkeypatch.setattr(conversation, "ANSWER_WITHIN_S", 0.05)
        await refused(a, "pair.swap", SWAP)
        await cannot_write(a, "first")
        assert "hosts' writes are refused" in a.pair("remote").reason
        await refused(a, "pair.split", m.PairSplit(name="remote"))
        await refused(a, "pair.swap", SWAP)
        monkeypatch.setattr(conversation, "ANSWER_WITHIN_S", 60.0)
        held.set()
        await eventually(lambda: roles(a, b) == SWAPPED)
        await both_in(a, b, S.PAIR)
        await cannot_write(a, "first")
        await write(b.volume("second"), 0, b"2" * BLOCK)
        assert a.image("first") == b.image("second")


async def test_a_role_that_is_offered_twice_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        lose(b, msg.Swapped)
        monkeypatch.setattr(conversation, "ANSWER_WITHIN_S", 0.05)
        await refused(a, "pair.swap", SWAP)
        monkeypatch.setattr(conversation, "ANSWER_WITHIN_S", 60.0)
        await eventually(lambda: b.pair("remote").role is m.Role.P_VOL)
        await cannot_write(a, "first")
        assert (await a.do("pair.swap", SWAP)).verdict is Verdict.ACCEPTED
        await both_in(a, b, S.PAIR)
        assert roles(a, b) == SWAPPED
        await cannot_write(a, "first")
