"""Stores in memory for tests, one of which tears a write when it is told to."""

from __future__ import annotations

from controller.volume.store import StoreDone, StoreError, StoreFault


class MemoryStore:
    """A block store in a bytearray; everything is done at once."""

    def __init__(self, size_bytes: int, content: bytes = b"") -> None:
        self.raw = bytearray(content.ljust(size_bytes, b"\0"))
        self.tear_after_bytes: int | None = None
        self.flushes = 0
        self.closed = False

    @property
    def size_bytes(self) -> int:
        return len(self.raw)

    @property
    def writes_at_once(self) -> bool:
        return True

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        into[:] = self.raw[offset_bytes : offset_bytes + len(into)]
        done(None)

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        torn = self.tear_after_bytes
        if torn is not None:
            self.raw[offset_bytes : offset_bytes + min(torn, len(data))] = data[:torn]
            done(StoreError(StoreFault.IO, "torn"))
            return
        self.raw[offset_bytes : offset_bytes + len(data)] = data
        done(None)

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        self.raw[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)
        done(None)

    def flush(self, done: StoreDone) -> None:
        self.flushes += 1
        done(None)

    def next_data(self, offset_bytes: int) -> int | None:
        return offset_bytes

    def next_hole(self, offset_bytes: int) -> int:
        return self.size_bytes

    def allocated_bytes(self) -> int:
        return self.size_bytes

    def close(self) -> None:
        self.closed = True


class MemoryDisk:
    """Stores in memory by name."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryStore] = {}

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> MemoryStore:
        del how
        if create:
            assert name not in self.files
            self.files[name] = MemoryStore(size_bytes)
        if name not in self.files:
            raise StoreError(StoreFault.IO, f"there is no {name}")
        store = self.files[name]
        if store.size_bytes != size_bytes:
            raise StoreError(StoreFault.WRONG_SIZE, name)
        return store

    def exists(self, name: str) -> bool:
        return name in self.files

    def remove(self, name: str) -> None:
        self.files.pop(name, None)
