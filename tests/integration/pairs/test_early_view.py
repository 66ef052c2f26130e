"""Views of a quick split's S-VOL while it is still being copied: the split's image."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.volume.faulty import FaultRule
from targets.lun import LunError
from tests.integration.pairs.faults import Faults
from tests.integration.pairs.quick import BLOCK, QUICK, SIZE, copied, fast, parted, slow
from tests.integration.pairs.states import refused
from tests.rig import Running, eventually, two_nodes, write

S = m.PairState
VIEW = m.ViewOpen(volume="third", view="look")


async def seen(b: Running, offset: int = 0, length: int = SIZE) -> bytes:
    """What a host reads through the view."""
    into = bytearray(length)
    ended: asyncio.Future[LunError | None] = asyncio.get_running_loop().create_future()
    b.volume("look").read(offset, memoryview(into), ended.set_result)
    error = await ended
    if error is not None:
        raise error
    return bytes(into)


async def looked_into(a: Running, b: Running) -> bytes:
    """A quick split that is slowly copied, and a view of it; what the second was at the split."""
    await parted(a, b)
    await slow(b)
    at_split = b.image("second")
    await b.do("pair.split", QUICK)
    await b.do("view.open", VIEW)
    return at_split


async def test_a_view_shows_the_split_while_it_is_copied_and_written_over(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        at_split = await looked_into(a, b)
        assert await seen(b) == at_split != b.image("third")
        rng = Random(2)
        for _ in range(40):
            at = rng.randrange(SIZE // 512 - 8) * 512
            await write(a.volume("first"), at, rng.randbytes(512 * rng.randint(1, 8)))
            at = rng.randrange(SIZE // 512 - 64) * 512
            assert await seen(b, at, 64 * 512) == at_split[at : at + 64 * 512]
        assert b.pair("local").behind, "the copy is slow: all of that was before its end"
        fast(b)
        await copied(b)
        assert await seen(b) == at_split == b.image("third")
        await write(b.volume("look"), 0, b"mine" * 128)
        assert b.image("third") == at_split


async def test_a_read_that_a_write_overtakes_is_answered_with_the_split(tmp_path: Path) -> None:
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (a, b):
        at_split = await looked_into(a, b)
        offset = 700 * BLOCK
        second = b.node.volumes.get("second").record.id
        rule = FaultRule("read", "hold", first_byte=offset, end_byte=offset + BLOCK)
        store = faults.disk.rules(second, rule)
        reading = asyncio.ensure_future(seen(b, offset, BLOCK))
        assert await eventually(lambda: bool(store.held))
        # The copy of this block goes first, then the write.
        await write(a.volume("first"), offset, b"n" * BLOCK)
        store.release()
        assert await reading == at_split[offset : offset + BLOCK] != b"n" * BLOCK


async def test_a_copy_that_is_given_up_fails_what_only_the_second_had(tmp_path: Path) -> None:
    faults = Faults()
    async with two_nodes(tmp_path, wrap_b=faults.wrap) as (a, b):
        at_split = await looked_into(a, b)
        faults.disk.rules(b.node.volumes.get("third").record.id, FaultRule("write", "fail"))
        await asyncio.gather(write(a.volume("first"), 700 * BLOCK, b"w"), return_exceptions=True)
        assert await eventually(lambda: b.pair("local").state is S.PSUE)
        with pytest.raises(LunError):
            await seen(b, 700 * BLOCK, BLOCK)
        assert await seen(b, 3 << 20, BLOCK) == at_split[3 << 20 :][:BLOCK]
        assert (await refused(b, "view.open", m.ViewOpen(volume="third", view="more"))).next_step


async def test_an_open_view_keeps_the_split(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        at_split = await looked_into(a, b)
        for verb, params in (
            ("pair.resync", m.PairResync(name="local")),
            ("pair.delete", m.PairDelete(name="local")),
        ):
            assert (await refused(b, verb, params)).code is Code.IN_USE
            assert b.pair("local").behind
        assert await seen(b) == at_split
        await b.do("view.close", m.Named(name="look"))
        await b.do("pair.delete", m.PairDelete(name="local"))
        assert not b.volume("second").gates
