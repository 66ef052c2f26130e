"""A write to a cold extent waits for both logs at once, not for one behind the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from controller.api import messages as m
from controller.volume.store import StoreDone
from targets.lun import LunError
from tests.rig import eventually, remote_pair, two_nodes

S = m.PairState
EXTENT = 64 << 10


async def test_the_other_log_commits_while_ours_does(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=1 << 20))
        await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=1 << 20))
        await b.do("volume.create", m.VolumeCreate(name="third", size_bytes=1 << 20))
        await a.do("pair.create", remote_pair())
        await b.until("remote", S.PAIR)
        await b.do(
            "pair.create",
            m.PairCreate(name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third"),
        )
        for node, pair in ((a, "remote"), (b, "remote"), (b, "local")):
            await node.until(pair, S.PAIR)
        metadata = a.node.volumes.get("first").metadata
        assert metadata is not None
        flush = metadata.store.flush
        held: list[StoreDone] = []
        metadata.store.flush = held.append  # type: ignore[method-assign, assignment]
        ended: list[LunError | None] = []
        first = a.volume("first")
        first.write(5 * EXTENT - 4096, memoryview(b"w" * 8192), False, ended.append)
        for name in ("second", "third"):
            log = b.volume(name).intent
            assert log is not None
            await eventually(partial(log.covers, 4, 5))
        assert first.intent is not None
        assert not first.intent.covers(4, 4)
        assert ended == []
        assert a.image("first") == b.image("second") == bytes(1 << 20)
        metadata.store.flush = flush  # type: ignore[method-assign]
        for done in held:
            flush(done)
        await eventually(lambda: ended == [None])
        await eventually(lambda: a.image("first") == b.image("third"))
