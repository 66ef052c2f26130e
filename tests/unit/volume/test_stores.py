"""The faulty store, and the file store on real files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.file import DirectoryDisk, FileStore, Offload
from controller.volume.offload import ThreadOffload
from controller.volume.store import BlockStore, StoreError, StoreFault, finished
from tests.unit.volume.memory import MemoryStore

BLOCK = 4096


async def write(store: BlockStore, offset_bytes: int, data: bytes) -> None:
    await finished(lambda done: store.write(offset_bytes, memoryview(data), done))


async def read(store: BlockStore, offset_bytes: int, length_bytes: int) -> bytes:
    into = memoryview(bytearray(length_bytes))
    await finished(lambda done: store.read(offset_bytes, into, done))
    return bytes(into)


# ---------------------------------------------------------------- faults


async def test_without_a_rule_it_is_transparent() -> None:
    inner = MemoryStore(BLOCK)
    store = FaultyStore(inner)
    await write(store, 3, b"abc")
    assert await read(store, 2, 5) == b"\0abc\0"
    await finished(lambda done: store.discard(3, 1, done))
    await finished(store.flush)
    assert inner.raw[:6] == b"\0\0\0\0bc"
    assert inner.flushes == 1
    store.close()
    assert inner.closed


async def test_rules_count_skip_and_meet_only_their_range() -> None:
    inner = MemoryStore(4 * BLOCK)
    rule = FaultRule("write", "fail", times=2, skip=1, first_byte=BLOCK, end_byte=2 * BLOCK)
    store = FaultyStore(inner, [rule])
    await write(store, 0, b"x" * BLOCK)
    await write(store, 2 * BLOCK, b"x")
    await write(store, BLOCK, b"skipped")
    for offset in (BLOCK, BLOCK - 1):
        with pytest.raises(StoreError) as raised:
            await write(store, offset, b"no")
        assert raised.value.fault is StoreFault.IO
    await write(store, BLOCK, b"again")
    assert inner.raw[BLOCK : BLOCK + 7] == b"agained"


async def test_no_space_and_held_calls() -> None:
    store = FaultyStore(MemoryStore(BLOCK), [FaultRule("discard", "no_space")])
    with pytest.raises(StoreError) as raised:
        await finished(lambda done: store.discard(0, 1, done))
    assert raised.value.fault is StoreFault.NO_SPACE
    store.rules = [FaultRule("write", "hold", times=2)]
    ended: list[StoreError | None] = []
    for data in (b"1", b"2"):
        store.write(0, memoryview(data), ended.append)
    assert (ended, await read(store, 0, 1)) == ([], b"\0")
    store.release()
    store.release()
    assert (ended, await read(store, 0, 1)) == ([None, None], b"2")


# ---------------------------------------------------------------- files


class Offloaded:
    """Threads that count."""

    def __init__(self, inner: Offload) -> None:
        self.inner = inner
        self.calls = 0

    def __call__(
        self, work: Callable[[], None], ended: Callable[[BaseException | None], None]
    ) -> None:
        self.calls += 1
        self.inner(work, ended)


@pytest.fixture
async def offload() -> AsyncIterator[Offloaded]:
    threads = ThreadOffload(asyncio.get_running_loop())
    yield Offloaded(threads.lane())
    threads.close()


async def test_a_file_keeps_what_is_written_and_gives_holes_back(
    tmp_path: Path, offload: Offloaded
) -> None:
    disk = DirectoryDisk(tmp_path, lambda: offload)
    store = disk.open("one", 1 << 20, create=True)
    assert store.allocated_bytes() == 0
    await write(store, 3 * BLOCK + 5, b"x" * 9 * BLOCK)
    await finished(store.flush)
    assert store.next_data(0) == 3 * BLOCK
    assert store.next_hole(3 * BLOCK) == 13 * BLOCK
    await finished(lambda done: store.discard(4 * BLOCK, 2 * BLOCK, done))
    assert await read(store, 4 * BLOCK, 2 * BLOCK) == bytes(2 * BLOCK)
    assert store.allocated_bytes() == 8 * BLOCK
    store.close()
    again = disk.open("one", 1 << 20, create=False)
    assert await read(again, 3 * BLOCK + 5, 3) == b"xxx"
    assert again.next_data(13 * BLOCK) is None
    again.close()


async def test_a_cold_read_runs_in_a_thread_and_a_warm_one_does_not(
    tmp_path: Path, offload: Offloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryDisk(tmp_path, lambda: offload).open("cold", 1 << 20, create=True)
    await write(store, 0, b"warm" * BLOCK)
    assert await read(store, 0, 8) == b"warmwarm"
    assert offload.calls == 0
    real = os.preadv
    nowait: list[int] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            nowait.append(offset)
            if len(nowait) == 1:
                raise BlockingIOError(errno.EAGAIN, "not in the page cache")
            return real(fd, [buffers[0][:BLOCK]], offset)
        return real(fd, [buffers[0][:BLOCK]], offset)

    # Which pages are cached is the kernel's affair: say that none, and then that some are.
    monkeypatch.setattr(os, "preadv", preadv)
    for calls in (1, 2):
        assert await read(store, 0, 4 * BLOCK) == b"warm" * BLOCK
        assert offload.calls == calls
    store.close()


async def test_flushes_that_arrive_together_share_one(tmp_path: Path, offload: Offloaded) -> None:
    store = DirectoryDisk(tmp_path, lambda: offload).open("flushed", BLOCK, create=True)
    await asyncio.gather(*(finished(store.flush) for _ in range(20)))
    assert offload.calls == 2
    store.close()


async def test_a_closed_store_says_so(tmp_path: Path, offload: Offloaded) -> None:
    store = DirectoryDisk(tmp_path, lambda: offload).open("closed", BLOCK, create=True)
    last = asyncio.ensure_future(finished(store.flush))
    await asyncio.sleep(0)
    store.close()
    store.close()
    await last
    for call in (
        lambda done: store.read(0, memoryview(bytearray(1)), done),
        lambda done: store.write(0, memoryview(b"x"), done),
        lambda done: store.discard(0, BLOCK, done),
        store.flush,
    ):
        with pytest.raises(StoreError) as raised:
            await finished(call)
        assert raised.value.fault is StoreFault.CLOSED


async def test_a_full_disk_and_a_failed_fsync_are_told(offload: Offloaded) -> None:
    # /dev/full answers every write with ENOSPC and knows no fsync.
    store = FileStore(Path("/dev/full"), os.open("/dev/full", os.O_RDWR), BLOCK, offload)
    with pytest.raises(StoreError) as raised:
        await write(store, 0, b"x")
    assert raised.value.fault is StoreFault.NO_SPACE
    with pytest.raises(StoreError) as raised:
        await finished(store.flush)
    assert raised.value.fault is StoreFault.IO
    store.close()


async def test_a_file_that_was_cut_short_is_an_error_not_zeros(
    tmp_path: Path, offload: Offloaded
) -> None:
    store = DirectoryDisk(tmp_path, lambda: offload).open("short", 4 * BLOCK, create=True)
    os.truncate(tmp_path / "short", BLOCK)
    with pytest.raises(StoreError):
        await read(store, 0, 4 * BLOCK)
    store.close()


def test_what_is_not_there_or_has_another_size_is_refused(tmp_path: Path) -> None:
    def never(work: object, ended: object) -> None:
        raise AssertionError

    disk = DirectoryDisk(tmp_path, lambda: never)
    with pytest.raises(StoreError):
        disk.open("none", BLOCK, create=False)
    disk.open("there", BLOCK, create=True, reserve=True).close()
    assert disk.exists("there")
    with pytest.raises(StoreError):
        disk.open("there", BLOCK, create=True)
    with pytest.raises(StoreError, match="expected 8192"):
        disk.open("there", 2 * BLOCK, create=False)
    disk.remove("there")
    disk.remove("there")
    assert not disk.exists("there")
