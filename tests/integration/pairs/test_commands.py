"""Every command in every state of a pair, given on either controller, and bad input."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.outcome import Outcome
from controller.pair.table import COMMANDS, Command
from tests.integration.pairs.states import (
    BLOCK,
    REVERSE,
    SIZE,
    in_sync,
    nodes_in,
    refused,
    shown,
    volumes,
)
from tests.rig import (
    LOCAL_PAIR,
    Running,
    chain,
    read,
    remote_pair,
    start_node,
    two_nodes,
    unlinked,
    write,
)

S = m.PairState

EITHERS = [command for command in Command if command is not Command.TAKEOVER]
"""What either controller may be asked. Takeovers, swaps, quick splits have tests of their own."""
STATES = [S.SMPL, S.COPY, S.PAIR, S.PSUS, S.PSUE, S.RCPY]


async def give(node: Running, command: Command) -> Outcome:
    if command is Command.CREATE:
        return await node.do("pair.create", remote_pair())
    if command is Command.SPLIT:
        return await node.do("pair.split", m.PairSplit(name="remote"))
    if command is Command.QUICK:
        return await node.do("pair.split", m.PairSplit(name="remote", quick=True))
    if command is Command.DELETE:
        return await node.do("pair.delete", m.PairDelete(name="remote"))
    if command is Command.SWAP:
        return await node.do("pair.swap", m.PairSwap(name="remote", to="b"))
    if command is Command.KEEP:
        return await node.do("pair.swap", m.PairSwap(name="remote", to="a"))
    if command is Command.VERIFY:
        return await node.do("pair.verify", m.PairVerify(name="remote"))
    direction = REVERSE if command is Command.REVERSE else m.Direction.FORWARD
    return await node.do("pair.resync", m.PairResync(name="remote", direction=direction))


@pytest.mark.parametrize("state", STATES)
async def test_commands_that_change_nothing(state: m.PairState, tmp_path: Path) -> None:
    async with nodes_in(state, tmp_path) as nodes:
        for node in nodes:
            for command in EITHERS:
                row = COMMANDS[state, command]
                elsewhere = command is Command.CREATE and node is nodes[1]
                if row.verdict is Verdict.ACCEPTED and not elsewhere:
                    continue
                before = [shown(each) for each in nodes]
                if row.verdict is Verdict.NO_OP and not elsewhere:
                    for _ in range(2):
                        outcome = await give(node, command)
                        assert outcome.verdict is Verdict.NO_OP, (command, outcome)
                        assert outcome.message
                else:
                    with pytest.raises(RejectedError) as refused:
                        await give(node, command)
                    assert refused.value.next_step, (command, refused.value.message)
                    if not elsewhere and state is not S.SMPL:
                        assert refused.value.code is Code.WRONG_STATE
                        assert row.reason in refused.value.message
                assert [shown(each) for each in nodes] == before


ACCEPTED = [
    (state, command)
    for state in STATES
    for command in EITHERS
    if command not in (Command.SWAP, Command.QUICK)
    and COMMANDS[state, command].verdict is Verdict.ACCEPTED
]


@pytest.mark.parametrize(
    ("state", "command", "at"),
    [
        (state, command, at)
        for state, command in ACCEPTED
        for at in ("primary", "secondary")
        # Create is the primary's alone: its refusal is tested above.
        if command is not Command.CREATE or at == "primary"
    ],
)
async def test_commands_that_are_accepted(
    state: m.PairState, command: Command, at: str, tmp_path: Path
) -> None:
    async with nodes_in(state, tmp_path) as (a, b):
        node = a if at == "primary" else b
        outcome = await give(node, command)
        assert outcome.verdict is Verdict.ACCEPTED
        if command is Command.DELETE:
            assert (shown(a), shown(b)) == (S.SMPL, S.SMPL)
        elif command is Command.SPLIT:
            assert (shown(a), shown(b)) == (S.PSUS, S.SSUS)
        if command not in (Command.REVERSE, Command.VERIFY):
            # Those may have ended by now: in PAIR there is nothing to copy back, and one may look
            # again.
            assert (await give(node, command)).verdict is Verdict.NO_OP
        if command in (Command.SPLIT, Command.DELETE):
            # Nothing stands in the way of a new copy.
            await give(a, Command.CREATE if command is Command.DELETE else Command.RESYNC)
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


@pytest.mark.parametrize(
    "command", [Command.SPLIT, Command.RESYNC, Command.REVERSE, Command.DELETE]
)
async def test_the_secondary_cannot_decide_alone(command: Command, tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await unlinked(a, b)
        with pytest.raises(RejectedError) as refused:
            await give(b, command)
        assert refused.value.code is Code.WRONG_STATE
        assert "can't be reached" in refused.value.message
        assert "restore the link" in refused.value.next_step
        if command is Command.DELETE:
            with pytest.raises(RejectedError, match="would keep its half"):
                await give(a, command)
            forced = m.PairDelete(name="remote", force=True)
            for node in (b, a):
                assert (await node.do("pair.delete", forced)).verdict is Verdict.ACCEPTED
                assert (await node.do("pair.delete", forced)).verdict is Verdict.NO_OP
        elif command in (Command.RESYNC, Command.REVERSE):
            with pytest.raises(RejectedError) as refused:
                await give(a, command)
            assert refused.value.code is Code.NO_PEER
            assert refused.value.next_step


async def test_a_local_pair_takes_every_command(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (_, b):
        for name in ("second", "third"):
            await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
        await write(b.volume("second"), 0, b"l" * BLOCK)
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        split = m.PairSplit(name="local", writable=True)
        forward = m.PairResync(name="local")
        reverse = m.PairResync(name="local", direction=REVERSE)
        assert (await b.do("pair.create", LOCAL_PAIR)).verdict is Verdict.NO_OP
        assert (await b.do("pair.resync", forward)).verdict is Verdict.NO_OP
        with pytest.raises(RejectedError, match="starts from a split"):
            await b.do("pair.resync", reverse)
        assert (await b.do("pair.split", split)).verdict is Verdict.ACCEPTED
        await write(b.volume("third"), BLOCK, b"3" * BLOCK)
        assert (await b.do("pair.resync", reverse)).verdict is Verdict.ACCEPTED
        await b.until("local", S.PAIR)
        assert await read(b.volume("second"), BLOCK, BLOCK) == b"3" * BLOCK
        assert b.image("second") == b.image("third")
        with pytest.raises(RejectedError, match="is not a remote pair"):
            await b.do("backup.mark", m.BackupMark(remote_pair="local", local_pair="local"))
        assert (await b.do("pair.delete", m.PairDelete(name="local"))).verdict is Verdict.ACCEPTED
        assert (await b.do("pair.delete", m.PairDelete(name="local"))).verdict is Verdict.NO_OP
        await write(b.volume("third"), 0, b"free")


# ---------------------------------------------------------------- bad input


async def test_names_that_nobody_knows(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        for verb, params in (
            ("volume.show", m.Named(name="nothing")),
            ("volume.delete", m.VolumeDelete(name="nothing")),
            ("pair.show", m.Named(name="nothing")),
            ("pair.split", m.PairSplit(name="nothing")),
            ("pair.resync", m.PairResync(name="nothing")),
            ("backup.mark", m.BackupMark(remote_pair="nothing", local_pair="local")),
            ("view.open", m.ViewOpen(volume="nothing", view="v")),
            ("pair.create", remote_pair()),
            ("pair.create", LOCAL_PAIR),
        ):
            error = await refused(a, verb, params)
            assert error.code is Code.NOT_FOUND, (verb, error)
            assert "there is no" in error.message
            assert error.next_step
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
        error = await refused(a, "pair.create", remote_pair())
        assert error.code is Code.NOT_FOUND
        assert "no volume 'second' on 'b'" in error.message
        assert a.node.pairs.find("remote") is None
        error = await refused(a, "pair.create", remote_pair(peer="c"))
        assert "'c' is not a peer of 'a'" in error.message
        error = await refused(a, "pair.create", remote_pair(peer=None))
        assert error.code is Code.BAD_REQUEST
        assert (await refused(a, "job.list", m.Empty())).code is Code.BAD_REQUEST
        assert b.node.volumes.all() == []


async def test_sizes(tmp_path: Path) -> None:
    for size_bytes in (0, -4096, 4095, 4097, (64 << 40) + 4096):
        with pytest.raises(ValidationError):
            m.VolumeCreate(name="v", size_bytes=size_bytes)
    async with two_nodes(tmp_path) as (a, b):
        await volumes(a, b)
        error = await refused(a, "volume.create", m.VolumeCreate(name="first", size_bytes=BLOCK))
        assert error.code is Code.EXISTS
        again = await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
        assert again.verdict is Verdict.NO_OP
        await b.do("volume.create", m.VolumeCreate(name="small", size_bytes=BLOCK))
        error = await refused(a, "pair.create", remote_pair(s_volume="small"))
        assert error.code is Code.BAD_REQUEST
        assert "4194304" in error.message
        assert "4096" in error.message
        local = LOCAL_PAIR.model_copy(update={"s_volume": "small"})
        error = await refused(b, "pair.create", local)
        assert error.code is Code.BAD_REQUEST
        assert (a.node.pairs.owners(), b.node.pairs.owners()) == ([], [])
        assert b.volume("small").state.consistent
        await b.do("volume.delete", m.VolumeDelete(name="small"))


async def test_pairs_that_cannot_be(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        await a.do("volume.create", m.VolumeCreate(name="other", size_bytes=SIZE))
        error = await refused(a, "pair.create", remote_pair(p_volume="other"))
        assert error.code is Code.EXISTS
        error = await refused(a, "pair.create", remote_pair(name="r2", p_volume="other"))
        assert error.code is Code.IN_USE
        assert "'second' is the S-VOL of pair 'remote'" in error.message
        circle = m.PairCreate(name="c", kind=m.PairKind.LOCAL, p_volume="third", s_volume="second")
        assert (await refused(b, "pair.create", circle)).code in (Code.BAD_REQUEST, Code.IN_USE)
        mirror = circle.model_copy(update={"s_volume": "third"})
        assert (await refused(b, "pair.create", mirror)).code is Code.BAD_REQUEST
        with_peer = circle.model_copy(update={"peer": "a"})
        assert (await refused(b, "pair.create", with_peer)).code is Code.BAD_REQUEST
        for node, name in ((a, "first"), (b, "second"), (b, "third")):
            error = await refused(node, "volume.delete", m.VolumeDelete(name=name))
            assert error.code is Code.IN_USE
            assert "belongs to a pair" in error.message


async def test_a_generation_that_has_passed(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        expected = a.pair("remote").generation
        await write(a.volume("first"), 0, b"n" * BLOCK)
        resync = m.PairResync(name="remote", expect_generation=expected)
        error = await refused(a, "pair.resync", resync)
        assert error.code is Code.GENERATION_MISMATCH
        now = m.PairResync(name="remote", expect_generation=a.pair("remote").generation)
        await a.do("pair.resync", now)
        await a.until("remote", S.PAIR)


@pytest.mark.parametrize("state", [S.COPY, S.PSUS, S.PSUE, S.RCPY])
async def test_a_backup_needs_pair(state: m.PairState, tmp_path: Path) -> None:
    mark = m.BackupMark(remote_pair="remote", local_pair="local")
    async with nodes_in(state, tmp_path) as (a, b):
        for node in (a, b):
            error = await refused(node, "backup.mark", mark)
            assert error.code is Code.WRONG_STATE
            assert "a backup needs PAIR" in error.message
            assert error.next_step


async def test_a_backup_needs_its_local_pair_in_sync(tmp_path: Path) -> None:
    mark = m.BackupMark(remote_pair="remote", local_pair="local", label="nightly")
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        error = await refused(a, "backup.mark", mark)
        assert error.code is Code.NOT_FOUND
        await b.do("volume.create", m.VolumeCreate(name="third", size_bytes=SIZE))
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        await b.do("backup.mark", mark)
        assert b.pair("local").state is S.PSUS
        assert b.pair("local").split_label == "nightly"
        assert a.pair("remote").state is S.PAIR
        error = await refused(a, "backup.mark", mark)
        assert error.code is Code.WRONG_STATE
        assert "it must be PAIR" in error.message


@pytest.mark.parametrize("gone", list(m.Role))
async def test_half_a_local_pair_can_be_deleted_at_once(tmp_path: Path, gone: m.Role) -> None:
    """What a deletion that was cut in two leaves (seed 1227)."""
    node = await start_node(tmp_path, "b", [])
    try:
        for name in ("second", "third"):
            await node.do("volume.create", m.VolumeCreate(name=name, size_bytes=1 << 20))
        await node.do("pair.create", LOCAL_PAIR)
        await node.until("local", S.PAIR)
        half = next(each for each in node.node.pairs.owners() if each.record.role is gone)
        await node.node.pairs.forget(half.side)
        async with asyncio.timeout(30):
            if gone is m.Role.S_VOL:
                with pytest.raises(RejectedError) as refused:
                    await node.do("pair.delete", m.PairDelete(name="local"))
                assert "--force" in refused.value.next_step
            await node.do("pair.delete", m.PairDelete(name="local", force=True))
        assert list(node.node.pairs.owners()) == []
        await node.do("pair.create", LOCAL_PAIR)
        await node.until("local", S.PAIR)
    finally:
        await node.stop()
