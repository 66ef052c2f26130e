"""A volume's metadata file: whatever happens to it, what was hot is read, or everything is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.volume.intent import IntentRecord
from controller.volume.metadata import (
    Metadata,
    create_metadata,
    metadata_file,
    open_metadata,
    rescaled,
)
from controller.volume.slots import CorruptError
from controller.volume.store import StoreDone, StoreError, StoreFault, finished
from controller.volume.superblock import (
    FILE_BYTES,
    SUPERBLOCKS,
    Identity,
    IntentSettings,
    Superblock,
    read_image,
)
from tests.unit.volume.memory import MemoryDisk, MemoryStore

_T = TypeVar("_T")
ID, OTHER = "0f" * 16, "1e" * 16
NAME = metadata_file(ID)
SIZE = 1 << 20
SETTINGS = IntentSettings(extent_bytes=64 << 10, hot_extents=8)
HOT = (1, 4, 15)
SECTORS = range(FILE_BYTES // 512)


def run(awaitable: Awaitable[_T]) -> _T:
    async def wait() -> _T:
        return await awaitable

    return asyncio.run(wait())


async def in_use(extents: tuple[int, ...] = HOT) -> tuple[MemoryDisk, Identity]:
    """A file with hot extents, as a crash leaves it."""
    disk = MemoryDisk()
    made = await create_metadata(disk, ID, SIZE, SETTINGS)
    await commit(made, extents)
    return disk, Identity(bytes.fromhex(ID), SIZE, made.generation)


async def commit(metadata: Metadata, extents: tuple[int, ...]) -> None:
    record = IntentRecord(SETTINGS.extent_bytes, clean=False, extents=extents)
    await finished(lambda done: metadata.ring.commit(record.encode(), done))


async def reopened(
    disk: MemoryDisk, identity: Identity, cut: IntentSettings = SETTINGS
) -> Metadata:
    return await open_metadata(disk, ID, identity, cut)


def extents_of(hot: IntentRecord | None) -> tuple[int, ...] | None:
    assert hot is None or not hot.clean
    return None if hot is None else hot.extents


async def test_a_new_file_is_clean() -> None:
    disk = MemoryDisk()
    made = await create_metadata(disk, ID, SIZE, SETTINGS)
    assert made.hot is not None
    assert made.hot.clean
    found = await reopened(disk, Identity(bytes.fromhex(ID), SIZE, made.generation))
    assert found.hot == made.hot


async def test_what_was_hot_comes_back_start_after_start() -> None:
    disk, identity = await in_use()
    for _ in range(5):
        assert extents_of(read_image(disk.files[NAME].raw, identity)) == HOT
        found = await reopened(disk, identity)
        assert extents_of(found.hot) == HOT
        assert found.generation > identity.generation
        identity = replace(identity, generation=found.generation)


@given(st.integers(0, FILE_BYTES - 1), st.integers(1, 255))
def test_any_damaged_byte(at: int, flip: int) -> None:
    """One byte anywhere: both the superblock and the record are there twice."""
    disk, identity = run(in_use())
    disk.files[NAME].raw[at] ^= flip
    assert extents_of(read_image(disk.files[NAME].raw, identity)) == HOT
    found = run(reopened(disk, identity))
    assert extents_of(found.hot) == HOT


@settings(deadline=None)
@given(
    st.sets(st.sampled_from(SECTORS[:40]) | st.sampled_from(SECTORS)),
    st.binary(min_size=1, max_size=512),
    st.integers(1, 20),
)
def test_any_damaged_sectors(sectors: set[int], noise: bytes, commits: int) -> None:
    """Whatever is lost, in both copies too: an older record is never taken for the newest."""
    disk, identity = run(in_use(()))
    opened = run(reopened(disk, identity))
    identity = replace(identity, generation=opened.generation)
    for number in range(commits):
        run(commit(opened, (number % 16,)))
    raw = disk.files[NAME].raw
    for sector in sectors:
        raw[sector * 512 : sector * 512 + 512] = noise.ljust(512, b"\1")
    expected = (None, ((commits - 1) % 16,))
    assert extents_of(read_image(raw, identity)) in expected
    assert extents_of(run(reopened(disk, identity)).hot) in expected


@pytest.mark.parametrize("length", [0, 1, 511, 4096, 8192, FILE_BYTES - 512, FILE_BYTES + 512])
async def test_a_file_of_the_wrong_length(length: int) -> None:
    disk, identity = await in_use()
    disk.files[NAME] = MemoryStore(length, bytes(disk.files[NAME].raw[:length]))
    assert read_image(disk.files[NAME].raw, identity) is None
    found = await reopened(disk, identity)
    assert found.hot is None
    assert disk.files[NAME].size_bytes == FILE_BYTES


@settings(deadline=None)
@given(st.integers(0, FILE_BYTES))
def test_a_file_whose_end_is_lost_and_reads_as_zeros(kept: int) -> None:
    disk, identity = run(in_use())
    opened = run(reopened(disk, identity))
    for _ in range(8):
        run(commit(opened, HOT))
    raw = disk.files[NAME].raw
    raw[kept:] = bytes(FILE_BYTES - kept)
    # The second copy of the newest record goes first, and its first one with a whole lap.
    assert read_image(raw, identity) == run(reopened(disk, identity)).hot
    assert extents_of(read_image(raw, identity)) in (None, HOT)


async def test_a_missing_file() -> None:
    disk, identity = await in_use()
    disk.remove(NAME)
    assert (await reopened(disk, identity)).hot is None
    assert extents_of((await reopened(disk, identity)).hot) is None, "still nothing is known"


async def test_a_disk_that_fails_is_no_reason_to_make_a_file_anew() -> None:
    class Failing(MemoryDisk):
        def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> MemoryStore:
            raise StoreError(StoreFault.IO, f"{name} {size_bytes} {create} {how}")

    disk, identity = await in_use()
    failing = Failing()
    failing.files = dict(disk.files)
    with pytest.raises(StoreError):
        await reopened(failing, identity)
    assert failing.files == disk.files


async def test_two_files_that_were_swapped() -> None:
    disk, identity = await in_use()
    theirs = await create_metadata(disk, OTHER, SIZE, SETTINGS)
    other = metadata_file(OTHER)
    disk.files[NAME], disk.files[other] = disk.files[other], disk.files[NAME]
    for volume_id, generation in ((ID, identity.generation), (OTHER, theirs.generation)):
        mine = Identity(bytes.fromhex(volume_id), SIZE, generation)
        assert read_image(disk.files[metadata_file(volume_id)].raw, mine) is None
        assert (await open_metadata(disk, volume_id, mine, SETTINGS)).hot is None


async def test_a_ring_that_was_swapped_beneath_its_superblock() -> None:
    disk, identity = await in_use()
    await create_metadata(disk, OTHER, SIZE, SETTINGS)
    at = SUPERBLOCKS.ring_bytes
    disk.files[NAME].raw[at:] = disk.files[metadata_file(OTHER)].raw[at:]
    assert read_image(disk.files[NAME].raw, identity) is None
    assert (await reopened(disk, identity)).hot is None


async def test_a_file_of_an_earlier_run_that_was_put_back() -> None:
    disk, identity = await in_use(())
    old = bytes(disk.files[NAME].raw)
    opened = await reopened(disk, identity)
    await commit(opened, HOT)
    disk.files[NAME] = MemoryStore(FILE_BYTES, old)
    now = replace(identity, generation=opened.generation)
    assert read_image(old, now) is None
    found = await reopened(disk, now)
    assert found.hot is None
    assert found.generation > opened.generation


async def test_a_volume_of_another_size() -> None:
    disk, identity = await in_use()
    assert (await reopened(disk, replace(identity, size_bytes=2 * SIZE))).hot is None


async def test_both_superblocks_bad() -> None:
    disk, identity = await in_use()
    disk.files[NAME].raw[40] ^= 1
    disk.files[NAME].raw[4096 + 40] ^= 1
    assert read_image(disk.files[NAME].raw, identity) is None
    found = await reopened(disk, identity)
    assert found.hot is None
    await commit(found, HOT)
    again = await reopened(disk, replace(identity, generation=found.generation))
    assert extents_of(again.hot) == HOT


async def test_a_damaged_ring() -> None:
    disk, identity = await in_use()
    raw = disk.files[NAME].raw
    raw[8192:] = bytes(byte ^ 0xFF for byte in raw[8192:])
    assert (await reopened(disk, identity)).hot is None


def covered(hot: IntentRecord) -> set[int]:
    """4 KiB blocks of the hot extents."""
    step = hot.extent_bytes // 4096
    return {
        block
        for extent in hot.extents
        for block in range(extent * step, min((extent + 1) * step, SIZE // 4096))
    }


@given(
    st.sets(st.integers(0, 15), max_size=8),
    st.sampled_from([4 << 10, 16 << 10, 64 << 10, 256 << 10, 4 << 20]),
    st.integers(1, 40),
)
def test_a_ring_cut_anew_covers_what_was_hot(hot: set[int], extent_bytes: int, limit: int) -> None:
    disk, identity = run(in_use(tuple(sorted(hot))))
    cut = IntentSettings(extent_bytes, limit)
    first = run(reopened(disk, identity, cut))
    assert extents_of(first.hot) == tuple(sorted(hot)), "read with the old setting"
    now = replace(identity, generation=first.generation)
    second = run(reopened(disk, now, cut)).hot
    before = IntentRecord(SETTINGS.extent_bytes, clean=False, extents=tuple(sorted(hot)))
    assert second == rescaled(before, cut, SIZE)
    if second is not None:
        assert covered(second) >= covered(before)
        assert len(second.extents) <= limit


class TornStore(MemoryStore):
    """The power goes after so many sectors; what was written before is there."""

    sectors_left = 1 << 60

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        kept = min(len(data) // 512, self.sectors_left)
        self.sectors_left -= kept
        self.raw[offset_bytes : offset_bytes + kept * 512] = data[: kept * 512]
        done(None if kept * 512 == len(data) else StoreError(StoreFault.IO, "power"))


@pytest.mark.parametrize(
    "cut", [SETTINGS, IntentSettings(4 << 10, 3000), IntentSettings(64 << 10, 2)]
)
async def test_a_start_that_is_torn_at_every_sector(cut: IntentSettings) -> None:
    disk, identity = await in_use()
    before = bytes(disk.files[NAME].raw)
    torn = 0
    while True:
        store = TornStore(FILE_BYTES, before)
        store.sectors_left = torn
        disk.files[NAME] = store
        try:
            await reopened(disk, identity, cut)
        except StoreError:
            before_crash = covered(IntentRecord(65536, clean=False, extents=HOT))
            found = read_image(store.raw, identity)
            assert found is None or covered(found) >= before_crash
            disk.files[NAME] = MemoryStore(FILE_BYTES, bytes(store.raw))
            again = (await reopened(disk, identity, cut)).hot
            assert again is None or covered(again) >= before_crash
            torn += 1
            continue
        break
    assert torn >= 2, "both superblocks at least"


async def test_a_commit_that_is_torn_at_every_sector() -> None:
    cut = IntentSettings(4 << 10, 256)
    old, new = tuple(range(200)), tuple(range(20, 256))
    for torn in range(7):
        disk = MemoryDisk()
        made = await create_metadata(disk, ID, SIZE, cut)
        identity = Identity(bytes.fromhex(ID), SIZE, made.generation)
        made.ring.commit(IntentRecord(4096, False, old).encode(), lambda _error: None)
        store = disk.files[NAME]
        disk.files[NAME] = torn_store = TornStore(FILE_BYTES, bytes(store.raw))
        found = await open_metadata(disk, ID, identity, cut)
        torn_store.sectors_left = torn
        found.ring.commit(IntentRecord(4096, False, new).encode(), lambda _error: None)
        left = read_image(torn_store.raw, replace(identity, generation=found.generation))
        assert extents_of(left) in (old, new)


GOOD = Superblock.plan(bytes.fromhex(ID), SIZE, 1, SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"extent_bytes": 0},
        {"extent_bytes": 512},
        {"hot_extents": 0},
        {"hot_extents": 16385},
        {"hot_extents": 4000},
        {"slot_bytes": 0},
        {"slots": 1},
        {"slots": 9},
        {"ring_offset_bytes": 4096},
        {"ring_offset_bytes": FILE_BYTES - 4096},
    ],
)
def test_a_superblock_beyond_its_limits_is_refused(wrong: dict[str, Any]) -> None:
    assert Superblock.decode(GOOD.encode()) == GOOD
    with pytest.raises(CorruptError):
        Superblock.decode(replace(GOOD, **wrong).encode())


@pytest.mark.parametrize("payload", [b"", GOOD.encode()[:-1], GOOD.encode() + b"\0"])
def test_a_superblock_of_the_wrong_length_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptError):
        Superblock.decode(payload)


@given(
    st.integers(0, 1 << 45),
    st.integers(12, 30).map(lambda power: 1 << power),
    st.integers(1, 16384),
)
def test_a_planned_superblock_comes_back(size_bytes: int, extent_bytes: int, limit: int) -> None:
    cut = IntentSettings(extent_bytes, limit)
    made = Superblock.plan(bytes.fromhex(ID), size_bytes, 5, cut)
    assert Superblock.decode(made.encode()) == made
    assert made.settings == cut


@pytest.mark.parametrize(
    "record",
    [
        IntentRecord(32 << 10, False, (1,)),
        IntentRecord(64 << 10, False, (16,)),
        IntentRecord(64 << 10, False, tuple(range(9))),
    ],
)
def test_a_record_that_does_not_fit_its_superblock_is_refused(record: IntentRecord) -> None:
    with pytest.raises(CorruptError):
        GOOD.record(record.encode())
