"""The contract of `pair.changed` and `fs.extents`: what may differ between a backup and now.

Owns the shape only. Together they tell which parts of a file need no comparison: those that lie
where they lay, in blocks that nobody has written since.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from controller.api.base import Bytes, Info, Name, Params
from controller.api.looking import Path

MAX_EXTENTS = 1024
"""Of a file in one answer, and ranges of one question."""

Range = tuple[Bytes, Bytes]
"""Offset and length."""


class PairChanged(Params):
    """Which parts of these ranges of a volume are marked, on whichever sides of the pair are here.

    The ranges come in order, and answers do.
    """

    name: Name
    view: Name
    """An open view of the pair's S-VOL: while it is there, that stays the backup it is."""
    ranges: Annotated[list[Range], Field(max_length=MAX_EXTENTS)]


class ChangedRanges(Info):
    """Answer of `pair.changed`."""

    ranges: list[Range]
    """Whole blocks that are marked, cut to what was asked for."""
    more: bool = False
    """There was no room for all: behind the end of the last one, nothing is known."""


class Extent(Info):
    """A stretch of a file and where it lies on the volume."""

    offset_bytes: Bytes
    length_bytes: Bytes
    place_bytes: Bytes


class FsExtents(Params):
    """Write out what is dirty of one file of the first volume, and tell where it lies."""

    data_set: Name
    path: Path


class FileExtents(Info):
    """Where the content of a file lies, in order; what is left out reads as zeros."""

    extents: Annotated[list[Extent], Field(max_length=MAX_EXTENTS)] = []
    known: bool
    """False: this file's blocks are not simply on the volume, or there are too many of them."""
