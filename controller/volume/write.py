"""Commands on their way through a volume: what has to end before each is answered.

Owns the counting only. Must not decide anything: the volume submits, the pairs hold and end
their parts. A write may be answered before it is over: in async mode the host has its answer
while the peer's acknowledgement is still awaited, and the extent stays pinned until that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from controller.volume.store import StoreError, StoreFault
from targets.lun import Done, LunError, LunFault

if TYPE_CHECKING:
    from controller.volume.tracker import Tracker


def lun_error(error: StoreError, *, reading: bool) -> LunError:
    """A store's failure in a host's terms."""
    if error.fault is StoreFault.NO_SPACE:
        return LunError(LunFault.NO_SPACE, error.detail)
    return LunError(LunFault.READ_ERROR if reading else LunFault.WRITE_ERROR, error.detail)


def flushed_first(flush: Callable[[Done], None], answer: Done) -> Done:
    """FUA: the answer waits for a flush of what the write left behind."""

    def written(error: LunError | None) -> None:
        if error is None:
            flush(answer)
        else:
            answer(error)

    return written


class StoreAnswer:
    """Turns a store's answer into a LUN's, where nothing but the store has a part in it."""

    __slots__ = ("done", "reading")

    def __init__(self, done: Done, *, reading: bool) -> None:
        self.done = done
        self.reading = reading

    def ended(self, error: StoreError | None) -> None:
        """The store has answered."""
        self.done(None if error is None else lun_error(error, reading=self.reading))


class JoinedParts:
    """Several parts with one answer: when all have ended, with the first error."""

    __slots__ = ("_done", "_error", "_parts")

    def __init__(self, done: Done) -> None:
        self._done = done
        self._error: LunError | None = None
        self._parts = 1

    def hold(self) -> None:
        """One more part has to end before the answer."""
        self._parts += 1

    def end(self, error: LunError | None = None) -> None:
        """A part has ended."""
        self._error = self._error or error
        self._parts -= 1
        if not self._parts:
            self._done(self._error)


class WriteOp:
    """A write in flight. `data` is None for a discard."""

    __slots__ = (
        "_answer",
        "_on_stored",
        "_over",
        "_parts",
        "_pins",
        "data",
        "error",
        "first_extent",
        "last_extent",
        "length_bytes",
        "offset_bytes",
        "source",
    )

    def __init__(
        self,
        offset_bytes: int,
        length_bytes: int,
        data: memoryview | None,
        *,
        source: Tracker | None,
        extent_bytes: int,
        answer: Done,
        on_stored: Callable[[WriteOp, StoreError | None], None],
        over: Callable[[WriteOp], None],
    ) -> None:
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.data = data
        self.source = source
        self.first_extent = offset_bytes // extent_bytes
        self.last_extent = (offset_bytes + length_bytes - 1) // extent_bytes
        self.error: LunError | None = None
        self._answer = answer
        self._on_stored = on_stored
        self._over = over
        self._parts = 1
        self._pins = 1

    def stored(self, error: StoreError | None) -> None:
        """The store's part has ended."""
        failure = None if error is None else lun_error(error, reading=False)
        if failure is not None and self.error is None:
            self.error = failure
        self._on_stored(self, error)
        self.end(failure)

    def hold(self) -> None:
        """One more part has to end before the answer."""
        self._parts += 1
        self._pins += 1

    def end(self, error: LunError | None = None) -> None:
        """A part has ended. The first error is the answer's."""
        if error is not None and self.error is None:
            self.error = error
        self._parts -= 1
        if not self._parts:
            self._answer(self.error)
        self.unpin()

    def refuse(self, error: LunError) -> None:
        """The write was never submitted, and never will be: it holds no extents."""
        self.first_extent = -1
        self.end(error)

    def pin(self) -> None:
        """Something outlives the answer: keep the extents hot until it has ended."""
        self._pins += 1

    def unpin(self) -> None:
        """It has ended."""
        self._pins -= 1
        if not self._pins:
            self._over(self)
