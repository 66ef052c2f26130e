"""A disk whose plug can be pulled: what was not flushed is kept, dropped or half kept.

Owns the model of a volatile write cache over real files. Until the plug is pulled it is
transparent. Afterwards no call ends any more, and every file holds what was flushed plus an
arbitrary part of what was not, torn between sectors.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

from controller.volume.store import BlockStore, Disk, GrowingStore, StoreDone, StoreError

SECTOR = 512


class Plug:
    """One machine's power, for all its disks."""

    def __init__(self) -> None:
        self.pulled = False
        self.stores: list[CrashStore] = []

    def pull(self) -> None:
        """From this moment on nothing is written and nothing is answered."""
        self.pulled = True

    def let_go(self) -> None:
        """The machine is gone, its files stay as they are. When no thread works on them."""
        for store in self.stores:
            store.let_go()

    def leave_crash_images(self, chance: random.Random) -> None:
        """Decide what the platters hold. To be called when no thread works on the files."""
        for store in self.stores:
            store.leave_crash_image(chance)


class CrashStore:
    """A store with a write cache that a crash loses."""

    def __init__(self, inner: BlockStore, path: Path, plug: Plug) -> None:
        self._inner = inner
        self._path = path
        self._plug = plug
        self._durable = bytearray(path.read_bytes())
        self._number = 0
        self._pending: deque[tuple[int, int, bytes]] = deque()
        """Number, offset and data of what no flush has covered."""
        self._closed = False
        plug.stores.append(self)

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    @property
    def writes_at_once(self) -> bool:
        return self._inner.writes_at_once

    def _guarded(self, done: StoreDone) -> StoreDone:
        def ended(error: StoreError | None) -> None:
            if not self._plug.pulled:
                done(error)

        return ended

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        if not self._plug.pulled:
            self._inner.read(offset_bytes, into, self._guarded(done))

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        if not self._plug.pulled:
            self._keep(offset_bytes, bytes(data))
            self._inner.write(offset_bytes, data, self._guarded(done))

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        if not self._plug.pulled:
            self._keep(offset_bytes, bytes(length_bytes))
            self._inner.discard(offset_bytes, length_bytes, self._guarded(done))

    def _keep(self, offset_bytes: int, data: bytes) -> None:
        self._number += 1
        self._pending.append((self._number, offset_bytes, data))

    def lengthen(self, size_bytes: int) -> None:
        self._keep(self.size_bytes, bytes(size_bytes - self.size_bytes))
        assert isinstance(self._inner, GrowingStore)
        self._inner.lengthen(size_bytes)

    def flush(self, done: StoreDone) -> None:
        if self._plug.pulled:
            return
        # More writes may be pending by the time it ends; it promises nothing for those. Of two
        # flushes under way each may end first.
        covered = self._number

        def flushed(error: StoreError | None) -> None:
            if self._plug.pulled:
                return
            if error is None:
                while self._pending and self._pending[0][0] <= covered:
                    _, offset_bytes, data = self._pending.popleft()
                    self._durable[offset_bytes : offset_bytes + len(data)] = data
            done(error)

        self._inner.flush(flushed)

    def next_data(self, offset_bytes: int) -> int | None:
        return self._inner.next_data(offset_bytes)

    def next_hole(self, offset_bytes: int) -> int:
        return self._inner.next_hole(offset_bytes)

    def allocated_bytes(self) -> int:
        return self._inner.allocated_bytes()

    def close(self) -> None:
        if not self._plug.pulled:
            self.let_go()

    def let_go(self) -> None:
        if not self._closed:
            self._closed = True
            self._inner.close()

    def leave_crash_image(self, chance: random.Random) -> None:
        if self._closed or not self._path.exists():
            self.let_go()
            return
        image = self._durable
        for _, offset_bytes, data in self._pending:
            fate = chance.random()
            if fate < 0.4:
                continue
            end = len(data)
            if fate < 0.6 and end > SECTOR:
                end = chance.randrange(0, end, SECTOR)
            image[offset_bytes : offset_bytes + end] = data[:end]
        self.let_go()
        self._path.write_bytes(image)


class CrashDisk:
    """A directory of crash stores."""

    def __init__(self, inner: Disk, directory: Path, plug: Plug) -> None:
        self._inner = inner
        self._directory = directory
        self._plug = plug

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> BlockStore:
        store = self._inner.open(name, size_bytes, create=create, **how)
        return CrashStore(store, self._directory / name, self._plug)

    def exists(self, name: str) -> bool:
        return self._inner.exists(name)

    def remove(self, name: str) -> None:
        if not self._plug.pulled:
            self._inner.remove(name)
