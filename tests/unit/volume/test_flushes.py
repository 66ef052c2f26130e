"""A flush that ends well behind one that failed has saved nothing of what that one lost (L10)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from controller.catalogue import VolumeRecord
from controller.volume.store import StoreDone, StoreError, StoreFault
from controller.volume.volume import Volume
from controller.volumes import identity_of
from targets.lun import LunError
from tests.unit.volume.memory import MemoryStore


class HeldFlushes(MemoryStore):
    """Every flush waits until the test ends it."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.held: deque[StoreDone] = deque()

    def flush(self, done: StoreDone) -> None:
        self.held.append(done)


class Services:
    """A controller that notes nothing."""

    def commit(self, done: StoreDone) -> None:
        done(None)

    def soon(self, run: Callable[[], None]) -> None:
        run()

    def new_generation(self) -> str:
        return "g"

    def changed(self, volume: Volume) -> None:
        del volume


def a_volume() -> tuple[Volume, HeldFlushes]:
    store = HeldFlushes(1 << 20)
    record = VolumeRecord(name="v", id="0" * 32, size_bytes=1 << 20, generation="g0")
    volume = Volume(
        record,
        identity_of(record.id),
        store,
        Services(),
        intent_ring=None,
        extent_bytes=64 << 10,
        hot_extents=16,
    )
    return volume, store


def test_settling_fails_when_an_earlier_flush_has_failed() -> None:
    volume, store = a_volume()
    settled: list[StoreError | None] = []
    volume.settle(settled.append)
    volume.settle(settled.append)
    store.held.popleft()(StoreError(StoreFault.IO, "lost"))
    store.held.popleft()(None)
    assert [error is not None for error in settled] == [True, True]


def test_a_hosts_flush_fails_when_an_earlier_one_has_failed() -> None:
    volume, store = a_volume()
    answers: list[LunError | None] = []
    volume.flush(answers.append)
    volume.flush(answers.append)
    store.held.popleft()(StoreError(StoreFault.IO, "lost"))
    store.held.popleft()(None)
    assert [error is not None for error in answers] == [True, True]


def test_a_failed_volume_is_not_flushed_again() -> None:
    volume, store = a_volume()
    settled: list[StoreError | None] = []
    volume.settle(settled.append)
    store.held.popleft()(StoreError(StoreFault.IO, "lost"))
    volume.settle(settled.append)
    assert not store.held
    assert [error is not None for error in settled] == [True, True]
