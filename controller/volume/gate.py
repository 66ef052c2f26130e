"""What holds a write back until old content is kept elsewhere.

Owns the contract between a volume's order of writes and a copy behind a quick split. A volume
without a gate pays one look at an empty list.
"""

from __future__ import annotations

from typing import Protocol


class WriteGate(Protocol):
    """Asked before each write to a volume is submitted; ranges are whole extents, in bytes."""

    def passes(self, start_bytes: int, end_bytes: int) -> bool:
        """Whether a write to the range may go now."""

    def want(self, start_bytes: int, end_bytes: int) -> None:
        """A write waits for the range; never opens the gate within the call.

        What opens it calls the volume's `gate_opened`.
        """


class Gates(list[WriteGate]):
    """All of a volume; extents are `extent_bytes` long."""

    def __init__(self, extent_bytes: int) -> None:
        super().__init__()
        self._extent_bytes = extent_bytes

    def pass_all(self, first: int, last: int) -> bool:
        """Whether a write to these extents may go now."""
        size = self._extent_bytes
        return all(gate.passes(first * size, (last + 1) * size) for gate in self)

    def want(self, first: int, last: int) -> None:
        """A write waits for these extents."""
        size = self._extent_bytes
        for gate in self:
            gate.want(first * size, (last + 1) * size)
