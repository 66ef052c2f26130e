"""A verify and its repair, and what may come between."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Verdict
from controller.pair import verifier as verifier_module
from controller.volume.faulty import FaultRule
from controller.volume.store import StoreDone, StoreError, StoreFault
from tests.integration.pairs.faults import Faults
from tests.integration.pairs.states import BLOCK, REVERSE, in_sync, refused
from tests.integration.pairs.test_verify import behind_the_back, verified
from tests.rig import LOCAL_PAIR, Running, chain, eventually, linked, read, two_nodes, write

S, V = m.PairState, m.VerifyState
SIZE = 4 << 20


def verify_of(node: Running, name: str) -> m.VerifyInfo:
    found = node.pair(name).verify
    assert found is not None
    return found


async def over(node: Running, name: str) -> m.VerifyInfo:
    return await eventually(
        lambda: found if (found := verify_of(node, name)).state in (V.ENDED, V.STOPPED) else None,
        lambda: str(node.pair(name)),
        within_s=5,
    )


async def repairing(node: Running, name: str) -> None:
    """A repair under way, slow enough to be met."""
    node.node.pairs.get(name).record.rate_limit_bytes_per_s = 1 << 20
    await node.do("pair.verify", m.PairVerify(name=name, repair=True))
    await eventually(lambda: verify_of(node, name).state is V.REPAIRING)


async def test_a_backup_that_meets_a_repair_is_kept(tmp_path: Path) -> None:
    """Laws L7, L11: a mark that was answered stays one point in time, but for what was broken."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await write(a.volume("first"), 0, random.Random(1).randbytes(SIZE))
        behind_the_back(b, "third", 0, bytes(SIZE // 2))
        await repairing(b, "local")
        mark = m.BackupMark(remote_pair="remote", local_pair="local", label="monday")
        await a.do("backup.mark", mark)
        assert verify_of(b, "local").state is V.STOPPED
        at_the_mark = a.image("first")
        await write(a.volume("first"), SIZE // 2, b"later" * 1000)
        info = b.pair("local")
        assert (info.state, info.split_label) == (S.PSUS, "monday")
        assert b.image("third")[SIZE // 2 :] == at_the_mark[SIZE // 2 :]
        await b.do("pair.resync", m.PairResync(name="local"))
        await b.until("local", S.PAIR)
        assert b.image("third") == a.image("first")


async def test_a_repair_changes_no_state_and_guards_nothing(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE, fence=m.Fence.DATA)
        await write(a.volume("first"), 0, random.Random(1).randbytes(SIZE))
        behind_the_back(b, "second", 0, bytes(SIZE // 2))
        await repairing(a, "remote")
        assert (await a.do("pair.verify", m.PairVerify(name="remote"))).verdict is Verdict.NO_OP
        await write(a.volume("first"), 0, b"n" * BLOCK)
        assert b.image("second")[:BLOCK] == b"n" * BLOCK, "mirrored as ever"
        states = [a.pair("remote").state, b.pair("remote").state, b.pair("local").state]
        assert states == [S.PAIR] * 3
        assert (await over(a, "remote")).repaired
        assert a.image("first") == b.image("second") == b.image("third")
        assert a.pair("remote").dirty_bytes == b.pair("remote").dirty_bytes == 0
        assert (a.pair("remote").reason, a.pair("remote").next_step) == ("", "")


async def test_a_store_that_fails_ends_a_repair(tmp_path: Path) -> None:
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, random.Random(1).randbytes(SIZE))
        behind_the_back(b, "second", 0, bytes(SIZE // 2))
        await repairing(a, "remote")
        record = b.node.volumes.get("second").record
        faults.disk.rules(record.id, FaultRule("write", "no_space"))
        await a.until("remote", S.PSUE)
        assert "mend" in a.pair("remote").next_step, "an operator has to look first"
        assert (await over(a, "remote")).state is V.STOPPED
        await a.do("pair.resync", m.PairResync(name="remote"))
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_a_cut_ends_a_repair_and_the_copy_behind_it_brings_the_rest(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, random.Random(1).randbytes(SIZE))
        behind_the_back(b, "second", 0, bytes(SIZE // 2))
        await repairing(a, "remote")
        a.cut_link()
        assert (await over(a, "remote")).state is V.STOPPED
        await linked(a, b)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")
        again = await a.do("pair.verify", m.PairVerify(name="remote"))
        assert again.verdict is Verdict.ACCEPTED, again.message
        assert (await over(a, "remote")).differing_bytes == 0


async def test_findings_that_cannot_be_stored_end_the_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        behind_the_back(b, "second", 0, b"!")
        file = a.node.pairs.get("remote").side.bitmap_file

        def full(done: StoreDone) -> None:
            monkeypatch.undo()
            done(StoreError(StoreFault.IO, "no disk"))

        monkeypatch.setattr(file, "save", full)
        await a.do("pair.verify", m.PairVerify(name="remote"))
        await a.until("remote", S.PSUE)
        await over(a, "remote")
        await a.do("pair.resync", m.PairResync(name="remote"))
        await a.until("remote", S.PAIR)
        again = await a.do("pair.verify", m.PairVerify(name="remote"))
        assert again.verdict is Verdict.ACCEPTED, again.message


async def test_a_repair_of_half_a_verify_is_not_shown_as_a_whole_one(tmp_path: Path) -> None:
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (_, b):
        for name in ("second", "third"):
            await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
        local = m.PairCreate(
            name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third"
        )
        await b.do("pair.create", local)
        await b.until("local", S.PAIR)
        await write(b.volume("second"), 0, random.Random(1).randbytes(SIZE))
        for block in (0, SIZE // BLOCK - 1):
            behind_the_back(b, "third", block * BLOCK, b"!")
        record = b.node.volumes.get("second").record
        rule = FaultRule("read", "fail", first_byte=SIZE // 2, end_byte=SIZE // 2 + BLOCK)
        faults.disk.rules(record.id, rule)
        found = await verified(b, "local", repair=True)
        assert found.compared_bytes < SIZE
        assert found.state is V.STOPPED, f"half of it was never compared: {found}"


@pytest.mark.parametrize("direction", [m.Direction.FORWARD, REVERSE])
async def test_what_a_verify_found_travels_with_the_next_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: m.Direction
) -> None:
    """A split ends the verify, and the resync was given before its findings were dealt with."""
    monkeypatch.setattr(verifier_module, "STEP_BYTES", 1)
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, random.Random(1).randbytes(SIZE))
        behind_the_back(b, "second", 0, b"!")
        await a.do("pair.verify", m.PairVerify(name="remote", rate_limit_bytes_per_s=1 << 20))
        verifier = a.node.pairs.get("remote").side.verifier
        assert verifier is not None
        await eventually(lambda: len(verifier.found) > 0)
        await asyncio.gather(
            a.do("pair.split", m.PairSplit(name="remote")),
            a.do("pair.resync", m.PairResync(name="remote", direction=direction)),
        )
        await a.until("remote", S.PAIR)
        await over(a, "remote")
        await b.until("remote", S.PAIR)
        assert verify_of(a, "remote").differing_bytes == BLOCK
        assert a.image("first") == b.image("second"), f"{a.pair('remote').dirty_bytes} marked"
        assert a.pair("remote").dirty_bytes == 0


async def test_a_verify_that_finds_nothing_takes_back_what_an_earlier_one_said(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await write(a.volume("first"), 0, b"d" * BLOCK)
        behind_the_back(b, "second", 0, b"!")
        assert (await verified(a)).differing_bytes == BLOCK
        await write(a.volume("first"), 0, b"e" * BLOCK)
        found = await verified(a, repair=True)
        assert (found.state, found.differing_bytes) == (V.ENDED, 0)
        assert await read(b.volume("second"), 0, BLOCK) == b"e" * BLOCK
        info = a.pair("remote")
        assert "differ" not in info.reason, info.next_step
        assert info.dirty_bytes == 0


async def test_a_block_whose_write_is_under_way_is_not_copied_as_it_was(tmp_path: Path) -> None:
    """Law L2, for a store that does not write at once."""
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (_, b):
        for name in ("second", "third"):
            await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        await b.do("pair.split", m.PairSplit(name="local"))
        await write(b.volume("second"), 0, b"o" * SIZE)
        asked = m.PairResync(name="local", rate_limit_bytes_per_s=2 << 20)
        await b.do("pair.resync", asked)
        await b.until("local", S.COPY)
        record = b.node.volumes.get("second").record
        last = SIZE - BLOCK
        store = faults.disk.rules(record.id, FaultRule("write", "hold", first_byte=last))
        host = asyncio.create_task(write(b.volume("second"), last, b"n" * BLOCK))
        await eventually(lambda: bool(store.held))
        copier = b.node.pairs.get("local").side.copier
        assert copier is not None
        cursor = SIZE // BLOCK
        await eventually(lambda: copier._cursor >= cursor or not copier._may_send())
        await asyncio.sleep(1)
        store.release()
        await host
        await b.until("local", S.PAIR)
        assert b.image("second") == b.image("third"), f"{b.pair('local').dirty_bytes} marked"


async def test_the_next_step_of_a_local_split_brain_names_what_a_resolve_takes(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await b.do("pair.split", m.PairSplit(name="local", writable=True))
        await write(b.volume("second"), 0, b"2" * BLOCK)
        await write(b.volume("third"), 0, b"3" * BLOCK)
        error = await refused(b, "pair.resync", m.PairResync(name="local"))
        assert "volume" in error.next_step, error.next_step
