"""Histories that are never forgotten: what any sector of a first volume may ever have held.

Owns the link between a volume's own history, which a restart rebases on what is there, and the
archive of everything hosts wrote, which split and mirrored volumes are held against.
"""

from __future__ import annotations

from tests.sim.history import History, Version


class Archive(History):
    """A history that also tells the archive of all volumes."""

    def __init__(self, size_bytes: int, everything: History) -> None:
        self._everything = everything
        super().__init__(size_bytes)

    def begin(self, version: Version, offset_bytes: int, length_bytes: int) -> None:
        """A host begins a write."""
        super().begin(version, offset_bytes, length_bytes)
        self._everything.begin(version, offset_bytes, length_bytes)

    def refuse(self, version: Version, offset_bytes: int, length_bytes: int) -> None:
        """It was refused at the door."""
        super().refuse(version, offset_bytes, length_bytes)
        self._everything.refuse(version, offset_bytes, length_bytes)
