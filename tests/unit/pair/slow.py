"""A store whose reads end when the test says so, and a volume around it."""

from __future__ import annotations

from controller.volume.store import StoreDone, StoreError

BLOCK = 4096
_ZEROS = bytes(BLOCK)


class SlowStore:
    """Reads end when the test says so, with what the store holds then."""

    writes_at_once = True

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.size_bytes = len(data)
        self.at_once = False
        self.reads: list[tuple[int, memoryview, StoreDone]] = []

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        if self.at_once:
            into[:] = self.data[offset_bytes : offset_bytes + len(into)]
            done(None)
        else:
            self.reads.append((offset_bytes, into, done))

    def end_read(self, error: StoreError | None = None) -> None:
        offset_bytes, into, done = self.reads.pop(0)
        into[:] = self.data[offset_bytes : offset_bytes + len(into)]
        done(error)

    def next_data(self, offset_bytes: int) -> int | None:
        for at in range(offset_bytes, self.size_bytes, BLOCK):
            if self.data[at : at + BLOCK] != _ZEROS:
                return at
        return None


class QuietVolume:
    """Runs a barrier at once, or when the test says so."""

    name = "quiet"

    def __init__(self, data: bytearray) -> None:
        self.store = SlowStore(data)
        self.size_bytes = len(data)
        self.waiting: list[object] = []
        self.busy = False

    def barrier(self, run: object) -> None:
        assert callable(run)
        if self.busy:
            self.waiting.append(run)
        else:
            run()
