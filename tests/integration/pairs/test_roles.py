"""Takeover, the way back, and the exchange of roles: who serves the hosts, and what is copied."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from targets.lun import Access, LunError, LunFault
from tests.integration.pairs.states import BLOCK, in_sync, nodes_in, refused
from tests.integration.pairs.test_restarts import HOWS, How, Site, site
from tests.rig import LOCAL_PAIR, Running, eventually, read, relink, two_nodes, unlinked, write

S = m.PairState
TAKEOVER = m.PairTakeover(name="remote")
SWAP = m.PairSwap(name="remote", to="b")
SWAP_BACK = m.PairSwap(name="remote", to="a")


async def resync(node: Running, direction: m.Direction | None = None) -> None:
    await node.do("pair.resync", m.PairResync(name="remote", direction=direction))


async def both_in(a: Running, b: Running, state: m.PairState) -> None:
    await a.until("remote", state)
    await b.until("remote", state)


async def cannot_write(node: Running, volume: str) -> None:
    with pytest.raises(LunError) as refusal:
        await write(node.volume(volume), 0, b"x" * BLOCK)
    assert refusal.value.fault is LunFault.WRITE_PROTECTED


# ---------------------------------------------------------------- takeover


async def test_the_s_vol_takes_over_and_gives_back_only_the_difference(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, b"1" * 100 * BLOCK)
        await unlinked(a, b)
        await cannot_write(b, "second")
        outcome = await b.do("pair.takeover", TAKEOVER)
        assert outcome.verdict is Verdict.ACCEPTED
        assert (b.pair("remote").state, b.pair("remote").role) == (S.SSWS, m.Role.S_VOL)
        assert (await b.do("pair.takeover", TAKEOVER)).verdict is Verdict.NO_OP
        assert await read(b.volume("second"), 0, BLOCK) == b"1" * BLOCK
        await write(b.volume("second"), 50 * BLOCK, b"2" * 7 * BLOCK)
        await relink(a, b)
        await eventually(lambda: "taken over" in a.pair("remote").reason)
        info = a.pair("remote")
        assert "--reverse" in info.next_step
        assert "pair swap" in info.next_step
        await cannot_write(a, "first")
        await write(b.volume("second"), 57 * BLOCK, b"2" * BLOCK)
        await resync(a, m.Direction.REVERSE)
        await both_in(a, b, S.PAIR)
        assert a.image("first") == b.image("second")
        assert a.pair("remote").resync_payload_bytes == 8 * BLOCK
        await write(a.volume("first"), 0, b"3" * BLOCK)
        await cannot_write(b, "second")


async def test_a_resync_without_a_direction_asks_even_if_nothing_was_written(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await unlinked(a, b)
        await b.do("pair.takeover", TAKEOVER)
        await relink(a, b)
        error = await refused(a, "pair.resync", m.PairResync(name="remote"))
        assert error.code is Code.DIRECTION_NEEDED
        assert "--forward" in error.next_step
        assert b.pair("remote").state is S.SSWS
        await write(b.volume("second"), 0, b"2" * BLOCK)
        await resync(a, m.Direction.FORWARD)
        await both_in(a, b, S.PAIR)
        assert await read(b.volume("second"), 0, BLOCK) == bytes(BLOCK)
        await write(a.volume("first"), 0, b"1" * BLOCK)


async def test_a_takeover_of_a_split_pair_shuts_the_other_door_at_once(tmp_path: Path) -> None:
    async with nodes_in(S.PSUS, tmp_path) as (a, b):
        await write(a.volume("first"), 0, b"1" * BLOCK)
        await b.do("pair.takeover", TAKEOVER)
        await eventually(lambda: a.pair("remote").reason == "the S-VOL has taken over")
        await cannot_write(a, "first")
        await write(b.volume("second"), BLOCK, b"2" * BLOCK)
        error = await refused(
            a, "pair.resync", m.PairResync(name="remote", direction=None, full=True)
        )
        assert error.code is Code.DIRECTION_NEEDED
        await eventually(lambda: a.pair("remote").split_brain)
        await a.do("pair.resolve", m.PairResolve(name="remote", discard="a"))
        await both_in(a, b, S.PAIR)
        assert a.image("first") == b.image("second")
        assert await read(a.volume("first"), 0, 2 * BLOCK) == bytes(BLOCK) + b"2" * BLOCK


@pytest.mark.parametrize("state", [S.COPY, S.PAIR, S.RCPY])
async def test_no_takeover_of_half_a_copy_or_beside_the_p_vol(
    state: m.PairState, tmp_path: Path
) -> None:
    async with nodes_in(state, tmp_path) as (a, b):
        for node in (a, b):
            error = await refused(node, "pair.takeover", TAKEOVER)
            assert error.code is Code.WRONG_STATE
            assert error.next_step
            if state is S.PAIR:
                assert error.next_step.endswith("trilun pair swap remote --to b")
        if state is S.COPY:
            await unlinked(a, b)
            error = await refused(b, "pair.takeover", TAKEOVER)
            assert error.code is Code.NOT_CONSISTENT


async def test_only_the_s_vols_side_takes_over(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await unlinked(a, b)
        error = await refused(a, "pair.takeover", TAKEOVER)
        assert "S-VOL's controller" in error.next_step


async def test_a_local_pair_has_no_second_controller(tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await both.b.do("pair.split", m.PairSplit(name="local"))
        for verb, params in (
            ("pair.takeover", m.PairTakeover(name="local")),
            ("pair.swap", m.PairSwap(name="local", to="a")),
        ):
            await refused(both.b, verb, params)


@pytest.mark.parametrize("how", HOWS)
async def test_a_takeover_outlives_a_restart(how: How, tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"1" * BLOCK, fua=True)
        await both.stop("a", "powerless")
        await both.b.until("remote", S.PSUE)
        await both.b.do("pair.takeover", TAKEOVER)
        await write(both.b.volume("second"), BLOCK, b"2" * BLOCK, fua=True)
        await both.restart("b", how)
        assert both.b.pair("remote").state is S.SSWS
        await write(both.b.volume("second"), 2 * BLOCK, b"2" * BLOCK)
        await both.start("a")
        await both.linked()
        await cannot_write_soon(both.a)
        await both.restart("a", how)
        await both.linked()
        await cannot_write(both.a, "first")
        await resync(both.a, m.Direction.REVERSE)
        await both.in_sync()
        expected = b"1" * BLOCK + b"2" * 2 * BLOCK
        assert await read(both.a.volume("first"), 0, 3 * BLOCK) == expected


async def cannot_write_soon(node: Running) -> None:
    """The P-VOL's side has to hear of it first."""
    await eventually(lambda: node.volume("first").access is Access.READ_ONLY)
    await cannot_write(node, "first")


# ---------------------------------------------------------------- swap


def roles(a: Running, b: Running) -> tuple[m.Role, m.Role]:
    return a.pair("remote").role, b.pair("remote").role


SWAPPED = (m.Role.S_VOL, m.Role.P_VOL)


@pytest.mark.parametrize("at", ["a", "b"])
async def test_roles_are_exchanged_without_a_copy_and_back(at: str, tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, b"1" * 100 * BLOCK)
        asked = a if at == "a" else b
        assert (await asked.do("pair.swap", SWAP)).verdict is Verdict.ACCEPTED
        await both_in(a, b, S.PAIR)
        assert roles(a, b) == SWAPPED
        assert (b.pair("remote").p_volume, b.pair("remote").s_volume) == ("second", "first")
        assert b.pair("remote").resync_payload_bytes == 0
        await cannot_write(a, "first")
        await write(b.volume("second"), 5 * BLOCK, b"2" * BLOCK)
        assert a.image("first") == b.image("second")
        assert (await asked.do("pair.swap", SWAP)).verdict is Verdict.NO_OP
        await asked.do("pair.swap", SWAP_BACK)
        await both_in(a, b, S.PAIR)
        assert roles(a, b) == (m.Role.P_VOL, m.Role.S_VOL)
        await write(a.volume("first"), 6 * BLOCK, b"3" * BLOCK)
        await cannot_write(b, "second")
        assert a.image("first") == b.image("second")


async def test_a_mirror_runs_on_in_the_other_direction(tmp_path: Path) -> None:
    """Cuts, restarts, splits and a local pair behind it work as ever with roles exchanged."""
    async with site(tmp_path) as both:
        await both.a.do("pair.swap", SWAP)
        await both.in_sync()
        await both.restart("a", "powerless")
        await write(both.b.volume("second"), 0, b"2" * BLOCK)
        await both.in_sync()
        await both.restart("b", "powerless")
        await both.in_sync()
        assert roles(both.a, both.b) == SWAPPED
        await both.b.until("local", S.PAIR)
        await write(both.b.volume("second"), BLOCK, b"2" * BLOCK)
        assert both.b.image("third") == both.b.image("second") == both.a.image("first")
        await both.b.do("pair.split", m.PairSplit(name="remote", writable=True))
        assert (both.a.pair("remote").state, both.b.pair("remote").state) == (S.SSUS, S.PSUS)
        await write(both.a.volume("first"), 2 * BLOCK, b"3" * BLOCK)
        await both.b.do("pair.split", m.PairSplit(name="local"))
        await both.b.do("pair.resync", m.PairResync(name="remote", direction=m.Direction.REVERSE))
        await both.in_sync()
        await both.b.do("pair.delete", m.PairDelete(name="remote"))
        assert both.a.node.pairs.find("remote") is None
        assert list((both.directory / "a" / "meta").glob("*.bitmap")) == []


async def test_behind_a_takeover_the_old_primary_follows(tmp_path: Path) -> None:
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"1" * BLOCK, fua=True)
        await both.stop("a", "powerless")
        await both.b.until("remote", S.PSUE)
        await both.b.do("pair.takeover", TAKEOVER)
        await write(both.b.volume("second"), BLOCK, b"2" * BLOCK)
        assert (await both.b.do("pair.swap", SWAP)).verdict is Verdict.ACCEPTED
        assert (both.b.pair("remote").role, both.b.pair("remote").state) == (m.Role.P_VOL, S.PSUS)
        await write(both.b.volume("second"), 2 * BLOCK, b"2" * BLOCK)
        await both.start("a")
        await both.linked()
        await both.a.until("remote", S.SSUS, S.PSUE)
        await eventually(lambda: roles(both.a, both.b) == SWAPPED)
        await cannot_write(both.a, "first")
        assert both.b.pair("remote").state is S.PSUS, "an operator says when it is copied"
        await resync(both.b)
        await write(both.b.volume("second"), 3 * BLOCK, b"2" * BLOCK)
        await both.in_sync()
        await both.b.until("local", S.PAIR, S.PSUS)


async def test_two_versions_are_a_split_brain_whoever_holds_the_role(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await unlinked(a, b)
        await b.do("pair.takeover", TAKEOVER)
        await b.do("pair.swap", SWAP)
        await write(a.volume("first"), 0, b"1" * BLOCK)
        await write(b.volume("second"), BLOCK, b"2" * BLOCK)
        await relink(a, b)
        await eventually(lambda: roles(a, b) == SWAPPED)
        error = await refused(b, "pair.resync", m.PairResync(name="remote"))
        assert error.code is Code.SPLIT_BRAIN
        await b.do("pair.resolve", m.PairResolve(name="remote", discard="a"))
        await both_in(a, b, S.PAIR)
        assert await read(b.volume("second"), 0, 2 * BLOCK) == bytes(BLOCK) + b"2" * BLOCK
        assert a.image("first") == b.image("second")


async def test_hosts_on_the_p_vol_are_logged_out_first(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        a.logged_in("first", "iqn.2026-11.test:host")
        error = await refused(b, "pair.swap", SWAP)
        assert error.code is Code.IN_USE
        await write(a.volume("first"), 0, b"1" * BLOCK)
        await a.do("pair.swap", m.PairSwap(name="remote", to="b", force=True))
        await both_in(a, b, S.PAIR)
        assert roles(a, b) == SWAPPED


async def test_a_volume_cant_follow_two(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("volume.create", m.VolumeCreate(name="source", size_bytes=4 << 20))
        local = LOCAL_PAIR.model_copy(
            update={"name": "into", "p_volume": "source", "s_volume": "first"}
        )
        await a.do("pair.create", local)
        await a.until("into", S.PAIR)
        await both_in(a, b, S.PAIR)
        error = await refused(a, "pair.swap", SWAP)
        assert error.code is Code.IN_USE
        assert "into" in error.message


# ---------------------------------------------------------------- a swap that is cut off


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("how", ["killed", "powerless"])
@pytest.mark.parametrize("commits", range(1, 7))
async def test_a_swap_that_loses_power_has_one_p_vol_in_the_end(
    commits: int, how: How, victim: str, tmp_path: Path
) -> None:
    """The victim dies at its first, second, … commit of the catalogue since the command."""
    async with site(tmp_path) as both:
        await write(both.a.volume("first"), 0, b"1" * 9 * BLOCK, fua=True)
        command = asyncio.create_task(both.a.do("pair.swap", SWAP))
        await dies(both, victim, commits, how, command)
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)
        await both.start(victim)
        await both.in_sync()
        assert {*roles(both.a, both.b)} == set(m.Role), "one of each"
        leads = both.a if both.a.pair("remote").role is m.Role.P_VOL else both.b
        name = "first" if leads is both.a else "second"
        assert await read(leads.volume(name), 0, 9 * BLOCK) == b"1" * 9 * BLOCK
        await write(leads.volume(name), 0, b"9" * BLOCK)
        assert both.a.image("first") == both.b.image("second")


@pytest.mark.parametrize("watched", ["a", "b"])
@pytest.mark.parametrize("commits", range(1, 5))
async def test_a_swap_whose_link_is_cut_has_one_p_vol_in_the_end(
    commits: int, watched: str, tmp_path: Path
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        command = asyncio.create_task(a.do("pair.swap", SWAP))
        await committed(a if watched == "a" else b, commits, command)
        a.cut_link()
        b.cut_link()
        await asyncio.gather(command, return_exceptions=True)
        await both_in(a, b, S.PAIR)
        assert {*roles(a, b)} == set(m.Role)
        leads, name = (a, "first") if roles(a, b) != SWAPPED else (b, "second")
        await write(leads.volume(name), 0, b"9" * BLOCK)
        assert a.image("first") == b.image("second")


async def dies(
    both: Site, victim: str, commits: int, how: How, command: asyncio.Task[object]
) -> None:
    """Pull the plug of one machine behind so many commits, or when the command has ended."""
    await committed(both.up[victim], commits, command)
    await both.stop(victim, how)


async def committed(node: Running, commits: int, command: asyncio.Task[object]) -> None:
    """Wait for so many commits of a catalogue to begin, or for the command's end."""
    catalogue = node.node.catalogue
    reached, count, start = asyncio.Event(), 0, catalogue._start

    def counted() -> None:
        nonlocal count
        count += 1
        start()
        if count == commits:
            reached.set()

    catalogue._start = counted  # type: ignore[method-assign]
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait({command, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
