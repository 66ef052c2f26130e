"""One write (or discard) on its way through a volume: what has to end before it is answered.

Owns the counting only. Must not decide anything: the volume submits, the pairs hold and end
their parts. A write may be answered before it is over: in async mode the host has its answer
while the peer's acknowledgement is still awaited, and the extent stays pinned until that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from targets.lun import Done, LunError

if TYPE_CHECKING:
    from controller.volume.tracker import Tracker


class WriteOp:
    """A write in flight. `data` is None for a discard."""

    __slots__ = (
        "_answer",
        "_over",
        "_parts",
        "_pins",
        "data",
        "error",
        "first_extent",
        "fua",
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
        fua: bool,
        source: Tracker | None,
        extent_bytes: int,
        answer: Done,
        over: Callable[[WriteOp], None],
    ) -> None:
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.data = data
        self.fua = fua
        self.source = source
        self.first_extent = offset_bytes // extent_bytes
        self.last_extent = (offset_bytes + length_bytes - 1) // extent_bytes
        self.error: LunError | None = None
        self._answer = answer
        self._over = over
        self._parts = 1
        self._pins = 1

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

    def pin(self) -> None:
        """Something outlives the answer: keep the extents hot until it has ended."""
        self._pins += 1

    def unpin(self) -> None:
        """It has ended."""
        self._pins -= 1
        if not self._pins:
            self._over(self)
