"""Every command in every state of a pair, given on either controller, and bad input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.commands import Outcome
from controller.pair.table import COMMANDS, Command
from controller.volume.faulty import FaultRule
from targets.lun import LunError, UnitAttention
from tests.integration.pairs.faults import Faults
from tests.rig import (
    LOCAL_PAIR,
    Running,
    chain,
    eventually,
    read,
    relink,
    remote_pair,
    two_nodes,
    unlinked,
    write,
)

S = m.PairState
BLOCK = 4096
SIZE = 4 << 20
SLOW_BYTES_PER_S = 1 << 20
"""Three MiB take seconds at this rate: a copy stays while the test looks at it."""

STATES = [S.SMPL, S.COPY, S.PAIR, S.PSUS, S.PSUE, S.RCPY]
REVERSE = m.Direction.REVERSE


async def volumes(a: Running, b: Running) -> None:
    await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
    await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=SIZE))


async def in_sync(a: Running, b: Running, **remote: object) -> None:
    await volumes(a, b)
    await a.do("pair.create", remote_pair(**remote))
    await a.until("remote", S.PAIR)
    await b.until("remote", S.PAIR)


@asynccontextmanager
async def nodes_in(state: m.PairState, directory: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Two nodes whose remote pair is in `state` at the primary, with the link up."""
    faults = Faults()
    async with two_nodes(directory, wrap_b=faults.wrap) as (a, b):
        if state is S.SMPL:
            await volumes(a, b)
        elif state is S.COPY:
            await volumes(a, b)
            await write(a.volume("first"), 0, b"c" * (3 << 20))
            await a.do("pair.create", remote_pair(rate_limit_bytes_per_s=SLOW_BYTES_PER_S))
        else:
            await in_sync(a, b)
        if state is S.PSUE:
            rule = FaultRule("write", "fail")
            faults.disk.rules(b.node.volumes.get("second").record.id, rule)
            await write(a.volume("first"), 0, b"f" * BLOCK)
            await b.until("remote", S.PSUE)
        elif state in (S.PSUS, S.RCPY):
            await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        if state is S.RCPY:
            await write(b.volume("second"), 0, b"r" * (3 << 20))
            await a.do(
                "pair.resync",
                m.PairResync(
                    name="remote", direction=REVERSE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S
                ),
            )
        if state is not S.SMPL:
            await a.until("remote", state)
        yield a, b


async def give(node: Running, command: Command) -> Outcome:
    if command is Command.CREATE:
        return await node.do("pair.create", remote_pair())
    if command is Command.SPLIT:
        return await node.do("pair.split", m.PairSplit(name="remote"))
    if command is Command.DELETE:
        return await node.do("pair.delete", m.PairDelete(name="remote"))
    direction = REVERSE if command is Command.REVERSE else m.Direction.FORWARD
    return await node.do("pair.resync", m.PairResync(name="remote", direction=direction))


def shown(node: Running) -> m.PairState:
    return S.SMPL if node.node.pairs.find("remote") is None else node.pair("remote").state


@pytest.mark.parametrize("state", STATES)
async def test_commands_that_change_nothing(state: m.PairState, tmp_path: Path) -> None:
    async with nodes_in(state, tmp_path) as nodes:
        for node in nodes:
            for command in Command:
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
    for command in Command
    if COMMANDS[state, command].verdict is Verdict.ACCEPTED
]


@pytest.mark.parametrize("at", ["primary", "secondary"])
@pytest.mark.parametrize(("state", "command"), ACCEPTED)
async def test_commands_that_are_accepted(
    state: m.PairState, command: Command, at: str, tmp_path: Path
) -> None:
    if command is Command.CREATE and at == "secondary":
        return  # refused there: see above
    async with nodes_in(state, tmp_path) as (a, b):
        node = a if at == "primary" else b
        outcome = await give(node, command)
        assert outcome.verdict is Verdict.ACCEPTED
        if command is Command.DELETE:
            assert (shown(a), shown(b)) == (S.SMPL, S.SMPL)
        elif command is Command.SPLIT:
            assert (shown(a), shown(b)) == (S.PSUS, S.SSUS)
        if command is not Command.REVERSE:
            # That one may have ended by now, and in PAIR there is nothing to copy back.
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


async def refused(node: Running, verb: str, params: m.Params) -> RejectedError:
    with pytest.raises(RejectedError) as raised:
        await node.do(verb, params)
    assert raised.value.message
    return raised.value


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


# ---------------------------------------------------------------- views


async def test_a_view_changes_nothing_and_keeps_copies_away(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        for volume in ("second", "third"):
            error = await refused(b, "view.open", m.ViewOpen(volume=volume, view="v"))
            assert error.code is Code.WRONG_STATE
            assert "split" in error.next_step
        await write(a.volume("first"), 0, b"t" * BLOCK)
        await a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        before = b.image("third")
        opened = m.ViewOpen(volume="third", view="v")
        assert (await b.do("view.open", opened)).verdict is Verdict.ACCEPTED
        assert (await b.do("view.open", opened)).verdict is Verdict.NO_OP
        view = b.volume("v")
        await write(view, 100, b"journal replay")
        assert (await read(view, 0, BLOCK))[98:116] == b"tt" + b"journal replay" + b"tt"
        assert b.image("third") == before
        with pytest.raises(LunError):
            await write(b.volume("third"), 0, b"x" * BLOCK)
        resync = m.PairResync(name="local")
        error = await refused(b, "pair.resync", resync)
        assert error.code is Code.IN_USE
        assert "a view of 'third' is open" in error.message
        for verb, params in (
            ("view.open", m.ViewOpen(volume="v", view="w")),
            ("view.close", m.Named(name="third")),
            ("pair.create", LOCAL_PAIR.model_copy(update={"name": "p", "p_volume": "v"})),
        ):
            assert (await refused(b, verb, params)).code in (Code.BAD_REQUEST, Code.WRONG_STATE)
        assert (await refused(b, "volume.delete", m.VolumeDelete(name="v"))).code is Code.IN_USE
        assert (
            await refused(b, "view.open", m.ViewOpen(volume="third", view="second"))
        ).code is Code.EXISTS
        b.logged_in("v", "iqn.host2")
        assert (await refused(b, "view.close", m.Named(name="v"))).code is Code.IN_USE
        b.logged_in("v")
        assert (await b.do("view.close", m.Named(name="v"))).verdict is Verdict.ACCEPTED
        assert (await b.do("view.close", m.Named(name="v"))).verdict is Verdict.NO_OP
        assert b.image("third") == before
        await b.do("pair.resync", resync)
        await b.until("local", S.PAIR)
        assert b.image("second") == b.image("third")


# ---------------------------------------------------------------- who else uses a volume


async def test_a_reverse_copy_waits_for_nobody_to_use_its_target(tmp_path: Path) -> None:
    """Law L12."""
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), 0, b"2" * BLOCK)
        a.logged_in("first", "iqn.host1")
        reverse = m.PairResync(name="remote", direction=REVERSE)
        for node in (a, b):
            error = await refused(node, "pair.resync", reverse)
            assert error.code is Code.IN_USE
            assert "1 initiator(s) are logged in to 'first'" in error.message
            assert "--force" in error.next_step
        assert (shown(a), shown(b)) == (S.PSUS, S.SSUS)
        await a.do("pair.resync", reverse.model_copy(update={"force": True}))
        await a.until("remote", S.PAIR)
        assert await read(a.volume("first"), 0, BLOCK) == b"2" * BLOCK
        iqn = a.node.volumes.get("first").iqn
        assert [each[0] for each in a.exporter.attentions] == [iqn]
        assert isinstance(a.exporter.attentions[0][1], UnitAttention)


async def test_the_third_is_kept_while_the_second_is_made_consistent(tmp_path: Path) -> None:
    """Law L7: the guard splits it, and it follows again by itself."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        await unlinked(a, b)
        before = b.image("third")
        await write(a.volume("first"), 0, b"g" * (2 << 20))
        await relink(a, b)
        await a.until("remote", S.COPY)
        kept = await b.until("local", S.PSUS)
        assert "kept as the consistent copy" in kept.reason
        assert not b.volume("second").state.consistent
        with pytest.raises(LunError):
            await read(b.volume("second"), 0, BLOCK)
        assert b.image("third") == before
        error = await refused(b, "pair.resync", m.PairResync(name="local"))
        assert error.code is Code.NOT_CONSISTENT
        await a.until("remote", S.PAIR)
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")


async def test_what_an_operator_splits_meanwhile_stays_split(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        await unlinked(a, b)
        await write(a.volume("first"), 0, b"g" * (1 << 20))
        await relink(a, b)
        await b.until("local", S.PSUS)
        await b.do("pair.split", m.PairSplit(name="local"))
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        await b.node.pairs.get("local").caught_up()
        assert b.pair("local").state is S.PSUS
        assert a.image("first") == b.image("second")


async def test_async_mode_answers_early_and_ends_equal(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b, mode=m.Mode.ASYNC)
        first = a.volume("first")
        answered: list[object] = []
        for number in range(200):
            block = number * 7 % (SIZE // BLOCK)
            data = memoryview(bytes([number]) * BLOCK)
            first.write(block * BLOCK, data, False, answered.append)
        side = a.node.pairs.get("remote").side
        await eventually(lambda: len(answered) == 200)
        assert answered == [None] * 200
        assert side.channel is not None
        await eventually(lambda: side.channel is not None and side.channel.backlog_bytes == 0)
        assert a.image("first") == b.image("second")
        await unlinked(a, b)
        await write(first, 0, b"later" * 800 + bytes(96))
        await relink(a, b)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")
