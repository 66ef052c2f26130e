"""The first volume as host 1 has it now, asked for over the broker.

Owns the questions and their bounds. Must not decide what a difference means. Fails with what
host 1 answers: it may be away, or have let go of the volume.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from controller.api import messages as m
from controller.api.changed import FileExtents, FsExtents, Range
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import to_wire
from controller.api.looking import (
    MAX_DIGEST_BYTES,
    DigestInfo,
    FsDigest,
    FsEntries,
    FsEntry,
    FsList,
)

Ask = Callable[[str, m.Params], Awaitable[m.Info]]
"""A verb of host 1 and its parameters, to its answer."""
DigestOf = Callable[[str, int, int], Awaitable[DigestInfo]]
"""Path, offset and length in bytes, to the digest of that part."""


class NowFiles:
    """Host 1's files of one data set."""

    def __init__(self, data_set: str, ask: Ask) -> None:
        self._data_set = data_set
        self._ask = ask

    async def some(self, directory: str, names: list[str]) -> dict[str, FsEntry]:
        """Those of the named files that are there, by their names as text of the wire."""
        found: dict[str, FsEntry] = {}
        wanted = [to_wire(name) for name in names]
        while wanted:
            page = await self._list(FsList(
                data_set=self._data_set, directory=to_wire(directory), names=wanted
            ))  # fmt: skip
            found.update({entry.name: entry for entry in page.entries})
            if not page.more or not page.entries:
                break
            wanted = wanted[wanted.index(page.entries[-1].name) + 1 :]
        return found

    async def page(self, directory: str, after: str) -> FsEntries:
        """The entries of a directory behind a name; none where there is no such directory."""
        return await self._list(
            FsList(data_set=self._data_set, directory=to_wire(directory), after=after)
        )

    async def _list(self, params: FsList) -> FsEntries:
        try:
            answer = await self._ask("fs.list", params)
        except RejectedError as exc:
            if exc.code is not Code.NOT_FOUND:
                raise
            return FsEntries(entries=[], more=False)
        assert isinstance(answer, FsEntries)
        return answer

    async def extents(self, path: str) -> FileExtents:
        """Where a file lies, with what is dirty of it written out."""
        answer = await self._ask(
            "fs.extents", FsExtents(data_set=self._data_set, path=to_wire(path))
        )
        assert isinstance(answer, FileExtents)
        return answer

    async def digest(self, path: str, offset_bytes: int, length_bytes: int) -> DigestInfo:
        """Digest a part of a file."""
        answer = await self._ask("fs.digest", FsDigest(
            data_set=self._data_set,
            path=to_wire(path),
            offset_bytes=offset_bytes,
            length_bytes=length_bytes,
        ))  # fmt: skip
        assert isinstance(answer, DigestInfo)
        return answer


async def first_difference(
    ranges: Sequence[Range], one: DigestOf, path: str, two: DigestOf, other: str
) -> int | None:
    """Offset of the first part in which two files differ; None where these ranges are the same.

    Reads both up to there, part by part.
    """
    for start_bytes, size_bytes in ranges:
        offset_bytes, end_bytes = start_bytes, start_bytes + size_bytes
        while offset_bytes < end_bytes:
            length_bytes = min(MAX_DIGEST_BYTES, end_bytes - offset_bytes)
            if await one(path, offset_bytes, length_bytes) != await two(
                other, offset_bytes, length_bytes
            ):
                return offset_bytes
            offset_bytes += length_bytes
    return None
