"""A backup's mark: one instant of the stream, in one of several third volumes, or in both pairs."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.link.transport import Peer
from controller.pair.splitting import Splitting
from targets.lun import LunError
from tests.rig import Running, chain, eventually, linked, start_node, two_nodes, write

S = m.PairState
BLOCK = 4096
SIZE = 1 << 20


def mark(local: str = "local", label: str = "", **more: object) -> m.BackupMark:
    fields: dict[str, object] = {"remote_pair": "remote", "local_pair": local, "label": label}
    return m.BackupMark.model_validate(fields | more)


def digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


async def another_third(b: Running, name: str) -> None:
    await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
    params = m.PairCreate(
        name=f"local-{name}", kind=m.PairKind.LOCAL, p_volume="second", s_volume=name
    )
    await b.do("pair.create", params)
    await b.until(f"local-{name}", S.PAIR)


async def test_each_third_volume_keeps_its_own_instant_and_says_which(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await another_third(b, "other")
        images: dict[str, bytes] = {}
        for number, pair in enumerate(("local", "local-other"), 1):
            await write(a.volume("first"), number * BLOCK, bytes([number]) * BLOCK)
            await a.do(
                "backup.mark", mark(pair, f"day {number}", at=1000.0 + number, number=number)
            )
            images[pair] = a.image("first")
        await write(a.volume("first"), 0, b"later" * 100 + bytes(12))
        for number, (pair, volume) in enumerate((("local", "third"), ("local-other", "other")), 1):
            info = b.pair(pair)
            assert b.image(volume) == images[pair]
            assert (info.split_label, info.split_at) == (f"day {number}", 1000.0 + number)
            assert (info.backup_number, info.guarded) == (number, False)
        assert b.pair("local").dirty_bytes == 2 * BLOCK
        assert b.pair("local-other").dirty_bytes == BLOCK
        assert a.pair("remote").state is S.PAIR


async def test_what_a_backup_is_called_survives_a_restart(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await a.do("backup.mark", mark(label="monday", at=7.5, number=3))
    again = await start_node(tmp_path / "b", "b", [Peer("a", "127.0.0.1", 1)])
    try:
        info = again.pair("local")
        assert (info.state, info.split_label) == (S.PSUS, "monday")
        assert (info.split_at, info.backup_number) == (7.5, 3)
    finally:
        await again.stop()


async def test_a_split_can_say_what_it_is_a_backup_of(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await b.do("pair.split", m.PairSplit(name="local", label="x", at=5.0, number=2))
        await b.do(
            "pair.split", m.PairSplit(name="local", label="y", at=6.0, number=9, writable=True)
        )
        info = b.pair("local")
        assert (info.split_label, info.split_at, info.backup_number) == ("x", 5.0, 2)


async def test_both_pairs_are_split_at_one_instant_of_a_running_load(tmp_path: Path) -> None:
    """A host that writes without a pause: what it had been told is safe is in, the rest is not."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        first = a.volume("first")
        acknowledged = 0
        stopping = False

        async def load() -> None:
            nonlocal acknowledged
            while not stopping:
                number = acknowledged + 1
                block = number % (SIZE // BLOCK) * BLOCK
                await write(first, block, number.to_bytes(8, "big") * (BLOCK // 8))
                acknowledged = number
                # A write of a split volume is answered at once, and would never let go.
                await asyncio.sleep(0)

        task = asyncio.create_task(load())
        await eventually(lambda: acknowledged > 50)
        before = acknowledged
        await a.do("backup.mark", mark(label="both", split_remote=True))
        after = acknowledged
        await eventually(lambda: acknowledged > after + 50)
        stopping = True
        await task
        second, third = b.image("second"), b.image("third")
        assert digest(second) == digest(third), "one instant for both"
        newest = max(int.from_bytes(third[at : at + 8], "big") for at in range(0, SIZE, BLOCK))
        assert before <= newest <= after + 1
        expected = bytearray(SIZE)
        for number in range(1, newest + 1):
            at = number % (SIZE // BLOCK) * BLOCK
            expected[at : at + BLOCK] = number.to_bytes(8, "big") * (BLOCK // 8)
        assert bytes(expected) == third, "all writes up to the instant, and none after it"
        assert (a.pair("remote").state, b.pair("remote").state) == (S.PSUS, S.SSUS)
        assert a.pair("remote").split_label == b.pair("remote").split_label == "both"
        assert b.pair("local").state is S.PSUS


async def test_first_equals_third_when_the_host_stands_still(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await write(a.volume("first"), 9 * BLOCK, b"frozen" * 1000 + bytes(48))
        await a.do("backup.mark", mark(split_remote=True))
        assert digest(a.image("first")) == digest(b.image("second")) == digest(b.image("third"))


async def test_a_mark_that_meets_no_local_pair_leaves_the_remote_one_in_sync(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        await b.do("pair.split", m.PairSplit(name="local", label="kept"))
        kept = b.image("third")
        with pytest.raises(RejectedError) as refused:
            await a.do("backup.mark", mark(split_remote=True))
        assert refused.value.code is Code.WRONG_STATE
        assert "trilun pair resync local" in refused.value.next_step
        await a.until("remote", S.PAIR)
        await write(a.volume("first"), 0, b"z" * BLOCK)
        assert a.image("first") == b.image("second")
        assert b.image("third") == kept
        assert b.pair("local").split_label == "kept"


async def test_a_link_that_breaks_under_the_mark_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say then whether the third was split; what the host wrote is all there."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, SIZE)
        real = Splitting.begin

        def begin(splitting: Splitting, label: str, *, writable: bool) -> None:
            real(splitting, label, writable=writable)
            if splitting._record.name == "remote":
                a.cut_link()

        monkeypatch.setattr(Splitting, "begin", begin)
        with pytest.raises(RejectedError) as refused:
            await a.do("backup.mark", mark(split_remote=True))
        assert refused.value.code is Code.NO_PEER
        monkeypatch.undo()
        try:
            await write(a.volume("first"), 0, b"z" * BLOCK)
        except LunError:
            pytest.fail("a split pair does not fence")
        await linked(a, b)
        await b.until("remote", S.SSUS)
        assert a.pair("remote").state is S.PSUS
        await a.do("pair.resync", m.PairResync(name="remote"))
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")
