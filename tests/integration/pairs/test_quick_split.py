"""Quick splits of a local pair: the third is the second of one instant, copied behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.link.transport import Peer
from controller.volume.faulty import FaultRule
from tests.integration.pairs.faults import Faults
from tests.integration.pairs.quick import (
    BLOCK,
    QUICK,
    SIZE,
    SLOW_BYTES_PER_S,
    copied,
    fast,
    parted,
    slow,
)
from tests.integration.pairs.states import refused
from tests.rig import chain, eventually, start_node, two_nodes, write

S = m.PairState


async def test_a_split_pair_is_split_anew_without_being_in_sync(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await slow(b)
        at_split = b.image("second")
        outcome = await b.do("pair.split", QUICK)
        info = b.pair("local")
        assert outcome.verdict.value == "accepted"
        assert (info.state, info.behind, info.split_label) == (S.PSUS, True, "now")
        assert info.progress is not None
        assert info.progress.left_bytes > 0
        rng = Random(1)
        for _ in range(40):
            at = rng.randrange(SIZE // 512 - 8) * 512
            await write(a.volume("first"), at, rng.randbytes(512 * rng.randint(1, 8)))
        assert b.pair("local").behind, "the copy is slow: this was written before its end"
        assert b.image("second") == a.image("first") != at_split
        fast(b)
        await copied(b)
        assert b.image("third") == at_split
        info = b.pair("local")
        assert (info.state, info.behind, info.reason, info.progress) == (S.PSUS, False, "", None)
        third = b.node.volumes.get("third").record
        assert third.consistent
        assert not list((tmp_path / "b").rglob("*.owed*"))
        await b.do("pair.resync", m.PairResync(name="local"))
        await b.until("local", S.PAIR)
        assert b.image("third") == b.image("second")


async def test_a_write_that_waits_for_what_is_being_flushed_stalls_nothing(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await slow(b)
        at_split = b.image("second")
        await b.do("pair.split", QUICK)
        behind = b.node.pairs.get("local").side.behind
        assert behind is not None
        behind.want(0, BLOCK)
        while not behind._discharging:  # noqa: ASYNC110 - each turn of the loop counts
            await asyncio.sleep(0)
        behind.want(0, BLOCK)
        await eventually(lambda: not behind._discharging)
        fast(b)
        await copied(b)
        assert b.image("third") == at_split


async def test_a_conversation_that_opens_late_copies_nothing_twice(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await slow(b)
        at_split = b.image("second")
        await b.do("pair.split", QUICK)
        owner = b.node.pairs.get("local")
        behind = owner.side.behind
        assert behind is not None
        assert await eventually(lambda: bool(behind._batch))
        sent = behind._batch[0]
        # As when the pair was created just before: its first commit ends behind the split.
        owner.post("opened")
        await owner.caught_up()
        assert not behind._todo.count_in(*sent), "let go, and overwritten, it would be sent again"
        fast(b)
        behind.want(0, BLOCK)
        await copied(b)
        assert b.image("third") == at_split


async def test_a_copy_that_runs_is_split(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await b.do(
            "pair.resync", m.PairResync(name="local", rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        )
        await b.until("local", S.COPY)
        await write(a.volume("first"), 2 << 20, b"mirrored" * 512)
        at_split = b.image("second")
        await b.do("pair.split", QUICK)
        await write(a.volume("first"), 0, b"x" * (3 << 20))
        await copied(b)
        assert b.image("third") == at_split


async def test_a_mark_splits_out_of_a_running_copy(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await b.do(
            "pair.resync", m.PairResync(name="local", rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        )
        mark = m.BackupMark(remote_pair="remote", local_pair="local", label="b", number=7)
        assert (await refused(a, "backup.mark", mark)).code is Code.WRONG_STATE
        await a.do("backup.mark", mark.model_copy(update={"quick": True}))
        at_split = a.image("first")
        await write(a.volume("first"), 0, b"y" * (3 << 20))
        info = b.pair("local")
        assert (info.state, info.split_label, info.backup_number) == (S.PSUS, "b", 7)
        await copied(b)
        assert b.image("third") == at_split


async def test_a_restart_goes_on_with_what_is_owed(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await slow(b)
        at_split = b.image("second")
        await b.do("pair.split", QUICK)
        await write(a.volume("first"), 5 * BLOCK, b"z" * BLOCK)
        assert b.pair("local").behind
    again = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)])
    try:
        info = again.pair("local")
        assert (info.state, info.behind, info.split_label) == (S.PSUS, True, "now")
        second = again.volume("second")
        assert second.gates
        writing = asyncio.gather(
            *(write(second, at, b"w" * BLOCK) for at in range(0, 3 << 20, 64 * BLOCK)),
            return_exceptions=True,
        )
        await copied(again)
        await writing
        assert again.image("third") == at_split
    finally:
        await again.stop()


async def test_a_quick_split_of_a_pair_in_sync_is_a_split(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await b.do("pair.split", QUICK)
        info = b.pair("local")
        assert (info.state, info.behind) == (S.PSUS, False)


async def test_what_is_being_copied_behind_is_no_source(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        await slow(b)
        await b.do("pair.split", QUICK)
        back = m.PairResync(name="local", direction=m.Direction.REVERSE, force=True)
        assert (await refused(b, "pair.resync", back)).code is Code.NOT_CONSISTENT
        again = await b.do("pair.split", QUICK)
        assert again.verdict.value == "no_op"
        await b.do("pair.resync", m.PairResync(name="local"))
        assert not b.pair("local").behind
        await b.until("local", S.COPY)
        assert not b.volume("second").gates


async def test_a_remote_pair_is_not_split_quickly(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await a.do("pair.split", m.PairSplit(name="remote"))
        found = await refused(a, "pair.split", m.PairSplit(name="remote", quick=True))
        assert found.code is Code.BAD_REQUEST


async def test_a_third_written_by_hosts_is_not_discarded_silently(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await b.do("pair.split", m.PairSplit(name="local", writable=True))
        await write(b.volume("third"), 0, b"mine" * 1024)
        found = await refused(b, "pair.split", QUICK)
        assert found.code is Code.DIRECTION_NEEDED
        assert b.pair("local").state is S.PSUS


@pytest.mark.parametrize("where", ["second", "third"])
async def test_a_disk_that_fails_gives_the_copy_up_and_writes_go_on(
    tmp_path: Path, where: str
) -> None:
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (a, b):
        await parted(a, b)
        await slow(b)
        await b.do("pair.split", QUICK)
        rule = FaultRule("read" if where == "second" else "write", "fail")
        faults.disk.rules(b.node.volumes.get(where).record.id, rule)
        writing = asyncio.gather(
            *(write(a.volume("first"), at, b"w" * BLOCK) for at in (BLOCK, 2 << 20)),
            return_exceptions=True,
        )
        assert await eventually(lambda: b.pair("local").state is S.PSUE)
        await copied(b)
        await writing
        info = b.pair("local")
        assert (info.behind, info.split_label) == (False, "")
        assert not b.volume("second").gates
        assert not b.node.volumes.get("third").record.consistent
        assert not list((tmp_path / "b").rglob("*.owed*"))
