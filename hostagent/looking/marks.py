"""Where a file may differ from its backup, asked of all who know a part of it.

Owns the order of the questions: first host 1 writes out what is dirty and tells where the file
lies; then the remote pair must be in PAIR and `sync`, so that all of that has reached the second
volume; only then its marks since the split are looked at. Where any of them can't tell, nobody
knows, and the file is read. Must not read content.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from controller.api import messages as m
from controller.api.changed import MAX_EXTENTS, ChangedRanges, FileExtents, PairChanged, Range
from controller.api.errors import RejectedError
from hostagent.jobs.ports import Nodes
from hostagent.looking.now import NowFiles
from hostagent.looking.suspects import places, suspects


@dataclass(frozen=True, slots=True)
class Marks:
    """Which pairs tell what was written since a backup."""

    primary: str
    remote_pair: str
    secondary: str
    local_pair: str
    view: str
    """Of the backup: what is looked into."""


async def suspects_of(
    nodes: Nodes,
    marks: Marks,
    then_of: Callable[[str], Awaitable[FileExtents]],
    now: NowFiles,
    path: str,
    size_bytes: int,
) -> list[Range] | None:
    """The ranges that have to be compared; None when that can't be told."""
    then = await then_of(path)
    if not then.known:
        return None
    try:
        there = await now.extents(path)
        if not there.known:
            return None
        found = places(then.extents, there.extents, size_bytes)
        if len(found.kept) > MAX_EXTENTS or not await _all_arrived(nodes, marks):
            return None
        asked = PairChanged(name=marks.local_pair, view=marks.view, ranges=found.asked)
        marked = await nodes.call(marks.secondary, "pair.changed", asked, None)
    except RejectedError:
        # It can be read at any rate; who is away will be named then.
        return None
    assert isinstance(marked, ChangedRanges)
    return suspects(found, marked)


async def _all_arrived(nodes: Nodes, marks: Marks) -> bool:
    pair = await nodes.call(marks.primary, "pair.show", m.Named(name=marks.remote_pair), None)
    assert isinstance(pair, m.PairInfo)
    return pair.state is m.PairState.PAIR and pair.mode is m.Mode.SYNC
