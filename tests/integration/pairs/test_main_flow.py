"""First, second and third volume: the way a file takes back, block by block."""

from __future__ import annotations

from pathlib import Path

from controller.api import messages as m
from tests.rig import Running, eventually, read, two_nodes, write

S = m.PairState
SIZE = 4 << 20
BLOCK = 4096


async def chain(a: Running, b: Running) -> None:
    """first on a, second and third on b, all in sync."""
    await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
    for name in ("second", "third"):
        await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
    await write(a.volume("first"), 0, b"before" * 1000 + bytes(96))
    await a.do(
        "pair.create",
        m.PairCreate(
            name="remote",
            kind=m.PairKind.REMOTE,
            p_volume="first",
            s_volume="second",
            peer="b",
        ),
    )
    await a.until("remote", S.PAIR)
    await b.until("remote", S.PAIR)
    await b.do(
        "pair.create",
        m.PairCreate(name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third"),
    )
    await b.until("local", S.PAIR)


async def test_blocks_come_back_through_three_volumes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        first, second = a.volume("first"), b.volume("second")
        await write(first, 64 * BLOCK, b"A" * BLOCK)
        await write(first, 65 * BLOCK, b"B" * BLOCK)
        assert a.image("first") == b.image("second") == b.image("third")
        await a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        at_backup = a.image("first")
        assert b.pair("local").state is S.PSUS
        await write(first, 64 * BLOCK, b"x" * BLOCK)
        await write(first, 66 * BLOCK, b"kept" * 1024)
        assert b.image("third") == at_backup
        assert a.image("first") == b.image("second")
        await b.do("pair.split", m.PairSplit(name="remote", writable=True))
        assert a.pair("remote").state is S.PSUS
        assert b.pair("remote").state is S.SSUS
        saved = await read(b.volume("third"), 64 * BLOCK, BLOCK)
        await write(second, 64 * BLOCK, saved)
        await b.do("pair.resync", m.PairResync(name="remote", direction=m.Direction.REVERSE))
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        assert await read(first, 64 * BLOCK, BLOCK) == b"A" * BLOCK
        assert await read(first, 66 * BLOCK, BLOCK) == b"kept" * 1024
        assert a.image("first") == b.image("second")
        info = a.pair("remote")
        assert info.resync_union_bytes == BLOCK
        assert info.resync_payload_bytes == BLOCK
        assert info.dirty_bytes == b.pair("remote").dirty_bytes == 0
        assert b.image("third") == at_backup
        assert await eventually(lambda: a.exporter.attentions)
