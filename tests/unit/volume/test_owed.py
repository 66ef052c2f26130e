"""What is owed, against crashes that tear it and damage to one copy of it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.volume.bitmap import PAGE_BITS, DirtyBitmap
from controller.volume.bitmap_file import SLOT_BYTES
from controller.volume.owed import OwedBlocks, owed_names, remove_owed
from controller.volume.store import StoreDone, StoreError, StoreFault
from tests.unit.volume.memory import MemoryDisk, MemoryStore

PAIR_ID = "00" * 16
BLOCKS = PAGE_BITS + 100
"""Two pages."""
SECTOR = 512


class PowerLost(Exception):  # noqa: N818  (an event of the story)
    """The machine stops at this call."""


class Cache(MemoryStore):
    """Keeps what is written in a cache until a flush; a crash leaves any sectors of it."""

    def __init__(self, size_bytes: int, disk: CrashingDisk) -> None:
        super().__init__(size_bytes)
        self.durable = bytearray(size_bytes)
        self.disk = disk

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        self.disk.step()
        super().write(offset_bytes, data, done)

    def flush(self, done: StoreDone) -> None:
        self.disk.step()
        self.durable[:] = self.raw
        super().flush(done)

    def crash(self, rng: Random) -> None:
        for at in range(0, len(self.raw), SECTOR):
            if rng.random() < 0.5:
                self.durable[at : at + SECTOR] = self.raw[at : at + SECTOR]
        self.raw[:] = self.durable


class CrashingDisk(MemoryDisk):
    """Loses power at its n-th write or flush."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1 << 30

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise PowerLost

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> MemoryStore:
        if create:
            self.files[name] = Cache(size_bytes, self)
        return super().open(name, size_bytes, create=False, **how)

    def crash(self, rng: Random) -> None:
        self.left = 1 << 30
        for file in self.files.values():
            assert isinstance(file, Cache)
            file.crash(rng)


def all_of(bitmap: DirtyBitmap) -> set[int]:
    return {block for first, count in bitmap.runs() for block in range(first, first + count)}


def marked(blocks: set[int]) -> DirtyBitmap:
    bitmap = DirtyBitmap(BLOCKS)
    for block in blocks:
        bitmap.set(block, 1)
    return bitmap


blocks = st.one_of(
    st.integers(0, 80), st.integers(PAGE_BITS - 5, PAGE_BITS + 5), st.just(BLOCKS - 1)
)


@settings(max_examples=200, deadline=None)
@given(
    st.sets(blocks, min_size=1, max_size=30),
    st.lists(st.lists(blocks, max_size=6), max_size=6),
    st.integers(0, 40),
    st.integers(0, 1 << 30),
    st.booleans(),
)
def test_whatever_a_crash_tears_what_was_let_go_is_not_held_and_the_rest_is(
    owed: set[int], batches: list[list[int]], power_s: int, seed: int, again: bool
) -> None:
    async def story() -> None:
        disk, rng = CrashingDisk(), Random(seed)
        at_work = await OwedBlocks.create(disk, PAIR_ID, marked(owed))
        begun, released = set[int](), set[int]()
        disk.left = power_s
        try:
            for batch in batches:
                kept = sorted(set(batch) & owed - begun)
                begun |= set(kept)
                ended: list[StoreError | None] = []
                at_work.discharge([(block, 1) for block in kept], ended.append)
                assert ended == [None]
                released |= set(kept)
                assert all_of(at_work.held) == owed - released
        except PowerLost:
            disk.crash(rng)
        if again:
            # Power is lost again while the copies are made equal.
            disk.left = rng.randrange(8)
            try:
                await OwedBlocks.load(disk, PAIR_ID, BLOCKS)
            except PowerLost:
                disk.crash(rng)
        disk.left = 1 << 30
        found = await OwedBlocks.load(disk, PAIR_ID, BLOCKS)
        assert found is not None
        held = all_of(found.held)
        assert not held & released, "what may have been overwritten is never copied again"
        assert owed - begun <= held, "what was not kept is still owed"
        assert held <= owed

    asyncio.run(story())


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("slot", [0, 1, 2])
async def test_damage_to_one_copy_is_made_good_by_the_other(copy: int, slot: int) -> None:
    disk = MemoryDisk()
    owed = {3, 70, PAGE_BITS + 7}
    at_work = await OwedBlocks.create(disk, PAIR_ID, marked(owed))
    at_work.discharge([(70, 1)], lambda _error: None)
    at_work.close()
    raw = disk.files[owed_names(PAIR_ID)[copy]].raw
    raw[slot * SLOT_BYTES : slot * SLOT_BYTES + SECTOR] = b"\xa5" * SECTOR
    for _ in range(2):
        found = await OwedBlocks.load(disk, PAIR_ID, BLOCKS)
        assert found is not None
        assert all_of(found.held) == {3, PAGE_BITS + 7}
        # It is whole again: the other copy may go now.
        raw = disk.files[owed_names(PAIR_ID)[1 - copy]].raw
        raw[slot * SLOT_BYTES : slot * SLOT_BYTES + SECTOR] = b"\xa5" * SECTOR
        copy = 1 - copy


async def test_what_is_damaged_in_both_copies_is_lost_and_never_guessed() -> None:
    disk = MemoryDisk()
    await OwedBlocks.create(disk, PAIR_ID, marked({3}))
    for name in owed_names(PAIR_ID):
        disk.files[name].raw[SLOT_BYTES + 100] ^= 1
    assert await OwedBlocks.load(disk, PAIR_ID, BLOCKS) is None


async def test_a_copy_that_is_gone_loses_what_is_owed() -> None:
    disk = MemoryDisk()
    await OwedBlocks.create(disk, PAIR_ID, marked({3}))
    disk.remove(owed_names(PAIR_ID)[1])
    assert await OwedBlocks.load(disk, PAIR_ID, BLOCKS) is None
    remove_owed(disk, PAIR_ID)
    assert not disk.files


async def test_no_room_leaves_nothing_behind() -> None:
    class Full(MemoryDisk):
        def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> MemoryStore:
            if name == owed_names(PAIR_ID)[1]:
                raise StoreError(StoreFault.NO_SPACE, name)
            return super().open(name, size_bytes, create=create, **how)

    disk = Full()
    with pytest.raises(StoreError):
        await OwedBlocks.create(disk, PAIR_ID, marked({3}))
    assert not disk.files


async def test_after_a_failed_write_everything_stays_held() -> None:
    disk = MemoryDisk()
    at_work = await OwedBlocks.create(disk, PAIR_ID, marked({3, 4}))
    disk.files[owed_names(PAIR_ID)[1]].tear_after_bytes = 100
    ended: list[StoreError | None] = []
    at_work.discharge([(3, 1)], ended.append)
    assert ended[0] is not None
    assert all_of(at_work.held) == {3, 4}
