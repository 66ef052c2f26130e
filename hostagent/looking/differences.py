"""What has changed in one directory between a backup and now.

Owns the merge of both lists, page by page, and which files' content has to be read: only those
whose inode was touched since, and whose metadata don't show a change already; and of a large file
only what may have been written since (`suspects`). Must not descend:
the caller asks for the directories it wants. Fails with what either side answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from controller.api.changed import Range
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import from_wire, to_wire
from controller.api.looking import Difference, Differences, DigestInfo, FsEntries, FsEntry
from hostagent.copying.beneath import joined, parent_of, shown
from hostagent.looking.now import NowFiles, first_difference
from hostagent.looking.telling import kind_of, metadata_differences, other_kind, untouched

MAX_READ_BYTES = 1 << 30
"""Content compared for one answer, before the next file is left to the next one."""
ASKED_FROM_BYTES = 1 << 20
"""Of a smaller file marks aren't asked for: reading it costs less."""


@dataclass(slots=True)
class DirectoryDiff:
    """One directory, or one file where the path names one."""

    path: str
    backup_page: Callable[[str], Awaitable[FsEntries]]
    """The backup's entries behind a name."""
    backup_digest: Callable[[str, int, int], Awaitable[DigestInfo]]
    now: NowFiles
    suspects: Callable[[str, int], Awaitable[Sequence[Range] | None]]
    """Path and size, to the ranges in which a file may differ; None where nobody knows."""
    _found: list[Difference] = field(default_factory=list)
    _directories: list[str] = field(default_factory=list)
    _read_bytes: int = 0
    _compared: int = 0

    async def run(self, after: str) -> Differences:
        """Compare what comes behind the name `after`, as far as one answer goes."""
        then = await self.backup_page(after)
        directory = self.path
        if then.alone:
            directory = parent_of(self.path)[0]
            name = parent_of(self.path)[1]
            found = await self.now.some(directory, [name])
            now = FsEntries(entries=list(found.values()), more=False)
        else:
            now = await self.now.page(directory, after)
        ends = [from_wire(page.entries[-1].name) for page in (then, now) if page.more]
        end = min(ends, default=None)
        one, two = _by_name(then, end), _by_name(now, end)
        for name in sorted(one.keys() | two.keys()):
            await self._compare(joined(directory, name), one.get(name), two.get(name))
            if self._read_bytes >= MAX_READ_BYTES:
                end = name
                break
        return Differences(
            differences=self._found,
            directories=self._directories,
            compared_count=self._compared,
            read_bytes=self._read_bytes,
            after="" if end is None else to_wire(end),
        )

    async def _compare(self, path: str, then: FsEntry | None, now: FsEntry | None) -> None:
        self._compared += 1
        if then is None:
            assert now is not None
            self._note(path, "added", "", now)
        elif now is None:
            self._note(path, "removed", "", then)
        elif other := other_kind(then, now):
            self._note(path, "changed", other, now)
        elif kind_of(then) == "directory":
            self._directories.append(to_wire(path))
            # Its times and size follow from what is in it.
            differs = [d for d in metadata_differences(then, now) if d != "modification time"]
            if differs:
                self._note(path, "metadata", ", ".join(differs), now)
        elif not untouched(then, now):
            await self._compare_touched(path, then, now)

    async def _compare_touched(self, path: str, then: FsEntry, now: FsEntry) -> None:
        differs = metadata_differences(then, now)
        if {"size", "where the link points", "device number"} & set(differs):
            self._note(path, "changed", ", ".join(differs), now)
            return
        if kind_of(then) == "file" and then.size_bytes:
            try:
                ranges = await self._ranges(path, then, now)
                self._read_bytes += sum(length for _, length in ranges)
                at = await first_difference(ranges, self.backup_digest, path, self.now.digest, path)
            except RejectedError as exc:
                if exc.code not in {Code.NOT_FOUND, Code.BAD_REQUEST}:
                    raise
                # It was there a moment ago: now is alive.
                self._note(path, "changed", "it changes just now", now)
                return
            if at is not None:
                self._note(path, "changed", ", ".join(["content", *differs]), now)
                return
        if differs:
            self._note(path, "metadata", ", ".join(differs), now)

    async def _ranges(self, path: str, then: FsEntry, now: FsEntry) -> Sequence[Range]:
        """What has to be read: all of it, unless marks tell more."""
        found: Sequence[Range] | None = None
        if then.inode == now.inode and then.size_bytes >= ASKED_FROM_BYTES:
            found = await self.suspects(path, then.size_bytes)
        return [(0, then.size_bytes)] if found is None else found

    def _note(self, path: str, what: str, detail: str, entry: FsEntry) -> None:
        kind = kind_of(entry)
        self._found.append(Difference.model_validate({
            "path": shown(path),
            "what": what,
            "detail": detail,
            "kind": kind,
            "size_bytes": entry.size_bytes if kind == "file" else 0,
        }))  # fmt: skip


def _by_name(page: FsEntries, end: str | None) -> dict[str, FsEntry]:
    found = {from_wire(entry.name): entry for entry in page.entries}
    return {name: entry for name, entry in found.items() if end is None or name <= end}
