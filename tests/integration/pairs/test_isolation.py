"""A disk hangs: writes and flushes of the volumes that don't need it go on."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from controller.api import messages as m
from targets.lun import LunError
from tests.hanging import Clones, Hanging
from tests.integration.pairs.quick import QUICK, copied, fast, parted, slow
from tests.integration.pairs.quick import SIZE as SMALL
from tests.integration.pairs.test_collection import SIZE, Sites, collection
from tests.rig import Running, flush, two_nodes, write

BLOCK = 4096
HOST_READS = 64
"""Under way at once: what an initiator may send and more."""


def data_file(node: Running, volume: str) -> str:
    return f"{node.node.volumes.get(volume).record.id}.volume"


def hung_reads(sites: Sites, volume: str, answers: list[LunError | None]) -> None:
    """Host 2 reads what isn't in memory."""
    for number in range(HOST_READS):
        into = memoryview(bytearray(BLOCK))
        sites["b"].volume(volume).read(number * BLOCK, into, answers.append)


@pytest.mark.parametrize("name", ["a1", "a2"])
async def test_a_disk_that_hangs_holds_up_its_own_primary_only(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch)
    async with collection(tmp_path) as sites:
        (other,) = {"a1", "a2"} - {name}
        b, sick, healthy = sites["b"], sites[name], sites[other]
        answers: list[LunError | None] = []
        with hanging.files(data_file(b, f"second-{name}"), data_file(b, f"third-{name}")):
            hung_reads(sites, f"second-{name}", answers)
            hung_reads(sites, f"third-{name}", answers)
            sick_flush = asyncio.ensure_future(flush(sick.volume("first")))
            await hanging.met("preadv", 2)
            # The whole of the volume, so that its log has to commit and settle, too.
            for at in range(0, SIZE, 1 << 20):
                await write(healthy.volume("first"), at, b"h" * (1 << 20), fua=True)
            await flush(healthy.volume("first"))
            await sites.in_sync(other)
            await sites.backup(other)
            assert answers == []
            assert not sick_flush.done()
        await sick_flush
        await sites.in_sync(name)
        assert b.image(f"third-{other}") == b"h" * SIZE


async def test_resyncs_go_on_beside_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch)
    async with collection(tmp_path) as sites:
        for name in ("a1", "a2"):
            await sites[name].do("pair.split", m.PairSplit(name=f"remote-{name}"))
            await sites.fill(name, b"r")
        with hanging.files(data_file(sites["b"], "second-a1")):
            hung_reads(sites, "second-a1", [])
            await sites["a1"].do("pair.resync", m.PairResync(name="remote-a1"))
            await sites["a2"].do("pair.resync", m.PairResync(name="remote-a2"))
            await sites.in_sync("a2")
            assert sites["a1"].pair("remote-a1").state is m.PairState.COPY
        await sites.in_sync("a1")


async def test_writes_go_on_while_the_third_takes_over_extents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = Clones(monkeypatch)
    async with two_nodes(tmp_path) as (a, b):
        await parted(a, b)
        at_split = b.image("second")
        await slow(b)
        splitting = asyncio.ensure_future(b.do("pair.split", QUICK))
        try:
            await clones.begun(1)
            for at in range(0, 1 << 20, 64 << 10):
                await write(a.volume("first"), SMALL - (1 << 20) + at, b"n" * BLOCK)
            await flush(a.volume("first"))
            assert b.pair("local").behind
        finally:
            clones.let_go(OSError(errno.EXDEV, "another file system"))
        await splitting
        fast(b)
        await copied(b)
        assert clones.on_loop == 0
        assert b.image("third") == at_split
        assert b.image("second") == a.image("first")
