"""Threads for real files: a store that hangs holds up no other."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller.volume.bitmap import DirtyBitmap
from controller.volume.file import DirectoryDisk
from controller.volume.offload import ThreadOffload
from controller.volume.store import BlockStore, SharingStore, StoreError, finished
from tests.hanging import Clones, Hanging
from tests.rig import eventually

BLOCK = 4096
HUNG_READS = 40


@pytest.fixture
async def offload() -> AsyncIterator[ThreadOffload]:
    threads = ThreadOffload(asyncio.get_running_loop())
    yield threads
    await asyncio.to_thread(threads.close)


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clones]:
    found = Clones(monkeypatch)
    yield found
    found.let_go()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    return Hanging(monkeypatch)


def opened(disk: DirectoryDisk, name: str) -> BlockStore:
    store = disk.open(name, 64 * BLOCK, create=True)
    store.write(0, memoryview(b"d" * 64 * BLOCK), lambda _error: None)
    return store


async def read(store: BlockStore) -> bytes:
    into = memoryview(bytearray(BLOCK))
    await finished(lambda done: store.read(0, into, done))
    return bytes(into)


async def test_hung_reads_and_flushes_of_some_stores_hold_up_no_other(
    tmp_path: Path, offload: ThreadOffload, hanging: Hanging
) -> None:
    disk = DirectoryDisk(tmp_path, offload.lane)
    sick = [opened(disk, f"sick{number}") for number in range(10)]
    ended: list[StoreError | None] = []
    with hanging.files("sick"):
        for store in sick:
            store.flush(ended.append)
            for _ in range(HUNG_READS):
                store.read(0, memoryview(bytearray(BLOCK)), ended.append)
        await hanging.met("fdatasync", 10)
        for number in range(3):
            healthy = opened(disk, f"healthy{number}")
            await finished(healthy.flush)
            assert await read(healthy) == b"d" * BLOCK
            healthy.close()
        assert ended == []
        assert threading.active_count() < 40, "some threads, not one a call"
    await eventually(lambda: len(ended) == 10 * (HUNG_READS + 1))
    assert set(ended) == {None}
    for store in sick:
        store.close()


async def test_what_a_call_raises_is_handed_back_on_the_loop(offload: ThreadOffload) -> None:
    loop_thread = threading.get_ident()
    run = offload.lane()
    told: asyncio.Queue[tuple[BaseException | None, int]] = asyncio.Queue()

    def fail() -> None:
        assert threading.get_ident() != loop_thread
        raise OSError(os.EX_IOERR, "no")

    run(fail, lambda error: told.put_nowait((error, threading.get_ident())))
    error, thread = await told.get()
    assert isinstance(error, OSError)
    assert thread == loop_thread


async def test_closing_waits_for_what_waits(hanging: Hanging, tmp_path: Path) -> None:
    offload = ThreadOffload(asyncio.get_running_loop())
    store = opened(DirectoryDisk(tmp_path, offload.lane), "sick")
    ended: list[StoreError | None] = []
    with hanging.files("sick"):
        for _ in range(HUNG_READS):
            store.read(0, memoryview(bytearray(BLOCK)), ended.append)
        closing = asyncio.ensure_future(asyncio.to_thread(offload.close))
    await closing
    await eventually(lambda: len(ended) == HUNG_READS)
    store.close()


# ---------------------------------------------------------------- shared extents


def sharing(disk: DirectoryDisk) -> tuple[BlockStore, BlockStore]:
    """A source of which the first 16 blocks are held, and a target that shares them."""
    source, target = opened(disk, "source"), opened(disk, "target")
    source.write(0, memoryview(b"s" * 16 * BLOCK), lambda _error: None)
    held = DirtyBitmap(64)
    held.set(0, 16)
    assert isinstance(target, SharingStore)
    target.share_with(source, held)
    return source, target


async def test_the_loop_goes_on_while_extents_are_being_shared(
    tmp_path: Path, offload: ThreadOffload, clones: Clones
) -> None:
    source, target = sharing(DirectoryDisk(tmp_path, offload.lane))
    assert not target.writes_at_once
    ended: list[StoreError | None] = []
    target.write(0, memoryview(b"s" * 2 * BLOCK), ended.append)
    await clones.begun(1)
    source.write(32 * BLOCK, memoryview(b"w" * BLOCK), ended.append)
    target.write(32 * BLOCK, memoryview(b"w" * BLOCK), ended.append)
    assert ended == [None, None], "what isn't held is written as ever"
    assert await read(source) == b"s" * BLOCK
    clones.let_go()
    await eventually(lambda: len(ended) == 3)
    assert ended == [None] * 3
    assert clones.on_loop == 0
    for store in (source, target):
        store.close()


async def test_what_cannot_be_shared_is_written(
    tmp_path: Path, offload: ThreadOffload, clones: Clones
) -> None:
    source, target = sharing(DirectoryDisk(tmp_path, offload.lane))
    ended: list[StoreError | None] = []
    for number in range(3):
        target.write(number * BLOCK, memoryview(b"s" * BLOCK), ended.append)
    await clones.begun(3)
    clones.let_go(OSError(errno.EOPNOTSUPP, "not here"))
    await eventually(lambda: len(ended) == 3)
    assert ended == [None] * 3
    assert target.writes_at_once, "it is not tried again"
    assert (tmp_path / "target").read_bytes()[: 4 * BLOCK] == b"s" * 3 * BLOCK + b"d" * BLOCK
    for store in (source, target):
        store.close()


async def test_a_source_that_is_closed_meanwhile_is_no_other_file(
    tmp_path: Path, offload: ThreadOffload, clones: Clones
) -> None:
    disk = DirectoryDisk(tmp_path, offload.lane)
    source, target = sharing(disk)
    ended: list[StoreError | None] = []
    target.write(0, memoryview(b"s" * BLOCK), ended.append)
    await clones.begun(1)
    source.close()
    other = opened(disk, "other")
    clones.let_go()
    await eventually(lambda: len(ended) == 1)
    assert clones.sources == ["source"]
    target.write(BLOCK, memoryview(b"s" * BLOCK), ended.append)
    assert ended == [None, None], "nothing is shared with what is closed"
    for store in (other, target):
        store.close()
