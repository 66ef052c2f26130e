"""Verify: what differs is found, exactly, while hosts go on; nothing else is; repair mends it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Verdict
from controller.pair import verifier as verifier_module
from tests.integration.pairs.states import BLOCK, refused
from tests.rig import (
    Running,
    chain,
    discard,
    eventually,
    read,
    relink,
    two_nodes,
    unlinked,
    write,
)

S, V = m.PairState, m.VerifyState
SIZE = 4 << 20


def behind_the_back(node: Running, name: str, offset_bytes: int, data: bytes) -> None:
    """Change a volume's file, as a broken disk does."""
    record = node.node.volumes.get(name).record
    with (node.directory / "data" / f"{record.id}.volume").open("r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


async def verified(node: Running, name: str = "remote", *, repair: bool = False) -> m.VerifyInfo:
    await node.do("pair.verify", m.PairVerify(name=name, repair=repair))
    return await eventually(
        lambda: (
            found
            if (found := node.pair(name).verify) and found.state in (V.ENDED, V.STOPPED)
            else None
        ),
        lambda: str(node.pair(name)),
    )


async def test_a_quiet_equal_pair_has_no_difference(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await write(a.volume("first"), 0, random.Random(1).randbytes(1 << 20))
        for node, name in ((a, "remote"), (b, "local"), (b, "remote")):
            await node.do("pair.verify", m.PairVerify(name=name))
            asked = a if name == "remote" else b
            found = await verified(asked, name)
            assert found.state is V.ENDED
            assert (found.differing_bytes, found.ranges, found.busy_bytes) == (0, [], 0)
            assert found.compared_bytes == SIZE
        assert a.pair("remote").dirty_bytes == 0


async def test_exact_ranges_are_found_marked_and_repaired(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await write(a.volume("first"), 0, random.Random(1).randbytes(1 << 20))
        await discard(a.volume("first"), 3 * BLOCK, 2 * BLOCK)
        # One byte in data, a whole block in what is a hole at the source, and the last block.
        behind_the_back(b, "second", 7 * BLOCK + 100, b"!")
        behind_the_back(b, "second", 3 * BLOCK, b"x" * BLOCK)
        behind_the_back(b, "second", 2 << 20, b"y" * 3 * BLOCK)
        behind_the_back(b, "second", SIZE - 1, b"z")
        found = await verified(a)
        ranges = [(each.offset_bytes // BLOCK, each.length_bytes // BLOCK) for each in found.ranges]
        assert ranges == [(3, 1), (7, 1), ((2 << 20) // BLOCK, 3), (SIZE // BLOCK - 1, 1)]
        assert found.differing_bytes == 6 * BLOCK
        info = a.pair("remote")
        assert (info.state, info.dirty_bytes) == (S.PAIR, 6 * BLOCK)
        assert "differ" in info.reason
        assert info.next_step == "trilun pair verify remote --repair"
        image = a.image("first")
        found = await verified(a, repair=True)
        assert found.repaired
        assert a.pair("remote").state is S.PAIR
        assert a.pair("remote").resync_payload_bytes == BLOCK, "holes travel as discards"
        assert a.pair("remote").dirty_bytes == b.pair("remote").dirty_bytes == 0
        assert a.image("first") == b.image("second") == image
        assert (await verified(a)).differing_bytes == 0
        await b.until("local", S.PAIR)
        assert b.image("third") == image


async def test_hosts_that_write_cause_no_false_alarm(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE, mode=m.Mode.ASYNC)
        volume, chance = a.volume("first"), random.Random(2)
        await write(volume, 0, chance.randbytes(SIZE))
        stop = asyncio.Event()

        async def host() -> None:
            while not stop.is_set():
                at = chance.randrange(SIZE // 512 - 16) * 512
                if chance.random() < 0.1:
                    await discard(volume, at, 4096)
                else:
                    await write(volume, at, chance.randbytes(chance.randrange(1, 16) * 512))

        hosts = [asyncio.create_task(host()) for _ in range(4)]
        for _ in range(5):
            found = await verified(a)
            assert (found.state, found.differing_bytes, found.busy_bytes) == (V.ENDED, 0, 0)
        behind_the_back(b, "second", 100 * BLOCK, b"different!")
        found = await verified(a, repair=True)
        assert found.repaired or found.differing_bytes == 0, "a host may have written it over"
        stop.set()
        await asyncio.gather(*hosts)
        await eventually(lambda: a.volume("first").idle and b.volume("second").idle)
        assert a.image("first") == b.image("second")
        assert (await verified(a)).differing_bytes == 0


async def test_a_cut_ends_a_verify_and_what_was_found_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_module, "STEP_BYTES", 1)
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await write(a.volume("first"), 0, random.Random(1).randbytes(SIZE))
        behind_the_back(b, "second", 0, b"!")
        params = m.PairVerify(name="remote", rate_limit_bytes_per_s=1 << 20)
        await a.do("pair.verify", params)
        assert (await a.do("pair.verify", params)).verdict is Verdict.NO_OP
        await eventually(lambda: a.node.pairs.get("remote").side.verifier.found.dirty_bytes > 0)  # type: ignore[union-attr]
        running = a.pair("remote").verify
        assert running is not None
        assert running.progress is not None
        assert running.progress.left_bytes
        await unlinked(a, b)
        found = a.pair("remote").verify
        assert found is not None
        assert found.state is V.STOPPED
        assert "mirror" in found.reason
        await eventually(lambda: a.pair("remote").dirty_bytes == BLOCK)
        await refused(a, "pair.verify", params)
        await relink(a, b)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")
        assert await read(b.volume("second"), 0, BLOCK) == a.image("first")[:BLOCK]
