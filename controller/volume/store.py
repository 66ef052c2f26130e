"""The BlockStore protocol: where a volume's bytes live.

Owns the contract of everything that stores blocks (a file, an overlay, a fault injector; a
cluster's block device later). Must not know volumes or pairs, nor speak of file descriptors.
Fails by passing a `StoreError` to a call's `done`.

Like a logical unit's, a store's calls end by callback: `done` may run before the call
returns, runs exactly once, and always on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from controller.volume.bitmap import DirtyBitmap


class StoreFault(enum.Enum):
    """What went wrong beneath."""

    NO_SPACE = "no_space"
    IO = "io"
    CLOSED = "closed"
    WRONG_SIZE = "wrong_size"


class StoreError(Exception):
    """A store's call failed; a failed write may have left any part of its range behind."""

    def __init__(self, fault: StoreFault, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail


StoreDone = Callable[[StoreError | None], None]


class JoinedDone:
    """Calls `done` once when several parts have ended, with the first error."""

    __slots__ = ("_done", "_error", "_left")

    def __init__(self, parts: int, done: StoreDone) -> None:
        self._left = parts
        self._done = done
        self._error: StoreError | None = None

    def part(self, error: StoreError | None) -> None:
        """One part has ended."""
        self._left -= 1
        self._error = self._error or error
        if not self._left:
            self._done(self._error)


class Image(Protocol):
    """What a view looks at: a store, or what several hold together."""

    @property
    def size_bytes(self) -> int:
        """Capacity."""

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        """Fill `into`; at once when the data is at hand, else without stopping the loop."""


class BlockStore(Image, Protocol):
    """An array of bytes of fixed size; unwritten and discarded ranges read as zeros."""

    @property
    def writes_at_once(self) -> bool:
        """Whether `write` and `discard` have always called `done` when they return.

        Where they have, data may be a window on a buffer that is reused right afterwards.
        """

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        """Store `data`; not durable before a flush that began after `done`."""

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        """Give the range's space back."""

    def flush(self, done: StoreDone) -> None:
        """Make every write whose `done` has run durable. A failure is never retried."""

    def next_data(self, offset_bytes: int) -> int | None:
        """Where the first byte at or after `offset_bytes` that may not be zero is; None: nowhere.

        A hint for skipping holes: a store that can't tell answers `offset_bytes`.
        """

    def next_hole(self, offset_bytes: int) -> int:
        """Where the first hole at or after `offset_bytes` begins; the size when there is none."""

    def allocated_bytes(self) -> int:
        """Space taken, as far as the store knows."""

    def close(self) -> None:
        """Let go of it. No call may be under way."""


@runtime_checkable
class SharingStore(Protocol):
    """A store that may hold what another holds without space of its own."""

    def share_with(self, source: BlockStore | None, held: DirtyBitmap | None) -> None:
        """From now on whatever is written to blocks that are set in `held` is what `source` has.

        `held` changes under the store; None ends it, and what is under way then may take over
        what `source` has by then. A store that can't share such a block writes it. Meanwhile
        writes need not be done at once.
        """


@runtime_checkable
class GrowingStore(Protocol):
    """A store that can become larger while it is used."""

    def lengthen(self, size_bytes: int) -> None:
        """Add zeros up to this size; a flush makes it durable. StoreError where it can't be."""


class Disk(Protocol):
    """Where a controller keeps its stores: a directory, or a simulator's stand-in."""

    def open(
        self,
        name: str,
        size_bytes: int,
        *,
        create: bool,
        reserve: bool = False,
        longer: bool = False,
    ) -> BlockStore:
        """Open a store; StoreError when it isn't there, WRONG_SIZE when it hasn't that size.

        A store created with `reserve` has its space set aside: writes to it never meet a full
        disk, which is what metadata needs (law L10). With `longer` a file that is longer by
        nothing but zeros is cut to `size_bytes`.
        """

    def exists(self, name: str) -> bool:
        """Whether there is a store of that name."""

    def remove(self, name: str) -> None:
        """Delete a store, durably; nothing happens when there is none."""


def finished(call: Callable[[StoreDone], None]) -> Awaitable[None]:
    """Await one store call: `await finished(store.flush)`. For start-up and commands only.

    The data path takes the callback as it is (law S6).
    """
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: StoreError | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    call(done)
    return future


async def reached(tell: Callable[[Callable[[], None]], None]) -> None:
    """Wait until a volume calls back: `await reached(volume.drained)`. For commands only."""
    called = asyncio.Event()
    tell(called.set)
    await called.wait()
