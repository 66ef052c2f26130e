"""Every step that changes what a crash leaves: counted, and a place to lose power at.

Owns the boundaries of a run: a write or discard that has reached the cache, a flush that begins,
a flush that has ended before anybody is told, a file that is made or removed. Nothing of a
controller's run after its own crash has an effect: the step it happened in goes on to its end
as a ghost that no disk listens to. Must not judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from controller.volume.store import BlockStore, StoreDone, StoreError, StoreFault
from tests.sim.disk import Faults, SimDisk
from tests.sim.loop import Epoch


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place between two effects on a disk."""

    number: int
    machine: str
    what: str
    file: str

    def __str__(self) -> str:
        return f"boundary {self.number}: {self.what} of {self.machine}/{self.file}"


Reached = Callable[[str, str], None]
"""What happened and to which file."""


class CountedDisk(SimDisk):
    """A simulated disk that tells each boundary in the step that passes it."""

    def __init__(
        self, rng: Random, faults: Faults, loop: asyncio.AbstractEventLoop, reached: Reached
    ) -> None:
        super().__init__(rng, faults, loop)
        self.reached = reached

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> BlockStore:
        """As on every disk, but not for a ghost."""
        assert self.epoch is not None
        epoch = self.epoch
        if not epoch.alive:
            raise StoreError(StoreFault.CLOSED, name)
        store = super().open(name, size_bytes, create=create, **how)
        if create:
            self.reached("creation", name)
        return CountedStore(store, name, epoch, self.reached)

    def remove(self, name: str) -> None:
        """As on every disk, but not for a ghost."""
        assert self.epoch is not None
        if self.epoch.alive and name in self.files:
            super().remove(name)
            self.reached("removal", name)


class CountedStore:
    """An open file that tells each boundary."""

    def __init__(self, inner: BlockStore, name: str, epoch: Epoch, reached: Reached) -> None:
        self._inner = inner
        self._name = name
        self._epoch = epoch
        self._reached = reached
        self.read = inner.read
        self.next_data = inner.next_data
        self.next_hole = inner.next_hole
        self.allocated_bytes = inner.allocated_bytes
        self.close = inner.close

    @property
    def size_bytes(self) -> int:
        """Capacity."""
        return self._inner.size_bytes

    @property
    def writes_at_once(self) -> bool:
        """As the store beneath."""
        return self._inner.writes_at_once

    def _then(self, what: str, done: StoreDone) -> StoreDone:
        def reached(error: StoreError | None) -> None:
            if self._epoch.alive:
                self._reached(what, self._name)
            if self._epoch.alive:
                done(error)

        return reached

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        """The boundary lies between the cache and the answer."""
        self._inner.write(offset_bytes, data, self._then("write", done))

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        """As a write."""
        self._inner.discard(offset_bytes, length_bytes, self._then("discard", done))

    def flush(self, done: StoreDone) -> None:
        """Two boundaries: it begins, and it has ended and nobody knows yet."""
        if self._epoch.alive:
            self._reached("flush begun", self._name)
        self._inner.flush(self._then("flush ended", done))
