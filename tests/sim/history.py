"""What hosts wrote to one volume, and which versions of each sector a read may return.

Owns the versions and the flush floor (law L5). Pure: time is a count of events handed in. Every
sector a host writes carries the number of its write, so that any image tells what it is made
of. A version is out of the question once another one that was begun after it had ended counts:
for a read, once that one was acknowledged; after a crash, once it was durable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.sim.disk import SECTOR_BYTES

FOR_EVER = 1 << 62
BLOCK_SECTORS = 8
_STAMP = struct.Struct("<QQ")
_ZEROS = bytes(SECTOR_BYTES)


def sector_content(write: int, sector: int) -> bytes:
    """What write number `write` puts into a sector."""
    return _STAMP.pack(write, sector) * (SECTOR_BYTES // _STAMP.size)


def content(write: int, offset_bytes: int, length_bytes: int) -> bytes:
    """The data of a whole write."""
    first = offset_bytes // SECTOR_BYTES
    count = length_bytes // SECTOR_BYTES
    return b"".join(sector_content(write, first + sector) for sector in range(count))


def author(raw: bytes | bytearray | memoryview, sector: int) -> int:
    """Which write a sector's content is of; 0 for zeros, -1 for what nobody wrote there."""
    write, at = _STAMP.unpack_from(raw)
    if write == 0:
        return 0 if raw == _ZEROS else -1
    if at != sector:
        return -1
    return write if raw == bytes(raw[: _STAMP.size]) * (SECTOR_BYTES // _STAMP.size) else -1


@dataclass(slots=True, eq=False)
class Version:
    """A write or discard. `started` and `ended` are counts of events."""

    number: int
    zero: bool
    started: int
    ended: int = FOR_EVER
    acked: bool = False
    durable: bool = False

    def __str__(self) -> str:
        what = "discard" if self.zero else "write"
        fate = "durable" if self.durable else "acknowledged" if self.acked else "not acknowledged"
        return f"{what} {self.number} ({fate})"


@dataclass(frozen=True, slots=True)
class Wrong:
    """A sector whose content is none of those allowed."""

    sector: int
    found: int
    allowed: str

    def __str__(self) -> str:
        found = {0: "zeros", -1: "bytes nobody wrote"}.get(self.found, f"write {self.found}")
        return f"sector {self.sector} holds {found}; allowed: {self.allowed}"


class History:
    """One volume's versions."""

    def __init__(self, size_bytes: int) -> None:
        self.sectors = size_bytes // SECTOR_BYTES
        self.known: dict[int, Version] = {}
        self.unflushed: list[Version] = []
        self.flying: dict[Version, range] = {}
        """Writes that have no answer yet, and their sectors."""
        self.rebased = 0
        """How often the content was replaced by something else than hosts."""
        self._versions: list[list[Version]] = []
        self._base = b""
        """The content at the last rebase."""
        self._loose: set[int] = set()
        """Blocks that may hold something else than the base."""
        self.reset()

    def reset(self) -> None:
        """A new volume: zeros."""
        first = Version(0, zero=True, started=-1, ended=0, acked=True, durable=True)
        self._versions = [[first] for _ in range(self.sectors)]
        self._base = bytes(self.sectors * SECTOR_BYTES)
        self._loose = set()
        self.unflushed = []
        self.rebased += 1

    def begin(self, version: Version, offset_bytes: int, length_bytes: int) -> None:
        """A host begins a write."""
        self.known[version.number] = version
        self.flying[version] = _span(offset_bytes, length_bytes)
        self._loosen(self.flying[version])
        for sector in _span(offset_bytes, length_bytes):
            self._versions[sector].append(version)

    def _loosen(self, span: range) -> None:
        self._loose.update(range(span[0] // BLOCK_SECTORS, span[-1] // BLOCK_SECTORS + 1))

    def _doubtful(self, images: list[bytes | bytearray]) -> Iterator[int]:
        """Sectors of blocks that hosts wrote to, or that are not as at the last rebase."""
        size = BLOCK_SECTORS * SECTOR_BYTES
        for block in range(self.sectors // BLOCK_SECTORS):
            at = slice(block * size, (block + 1) * size)
            base = self._base[at]
            if block in self._loose or any(image[at] != base for image in images):
                yield from range(block * BLOCK_SECTORS, (block + 1) * BLOCK_SECTORS)

    def refuse(self, version: Version, offset_bytes: int, length_bytes: int) -> None:
        """It was refused at the door: it can never be found."""
        self.flying.pop(version, None)
        for sector in _span(offset_bytes, length_bytes):
            if version in self._versions[sector]:
                self._versions[sector].remove(version)

    def end(self, version: Version, now: int, *, acked: bool, fua: bool) -> None:
        """It was answered, or never will be."""
        self.flying.pop(version, None)
        version.ended = now
        version.acked = acked
        version.durable = acked and fua
        if acked and not version.durable:
            self.unflushed.append(version)

    def flushed(self, began: int) -> None:
        """A flush that began then has succeeded."""
        left: list[Version] = []
        for version in self.unflushed:
            if version.ended <= began:
                version.durable = True
            else:
                left.append(version)
        self.unflushed = left

    # ------------------------------------------------------------ questions

    def wrong_read(self, data: bytes, offset_bytes: int, began: int) -> Wrong | None:
        """What is wrong with data that a read which began then has returned."""
        first = offset_bytes // SECTOR_BYTES
        for at in range(len(data) // SECTOR_BYTES):
            raw = data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]
            allowed = self._current(first + at, began)
            wrong = _judge(raw, first + at, allowed)
            if wrong is not None:
                return wrong
        return None

    def _current(self, sector: int, at: int) -> list[Version]:
        versions = self._versions[sector]
        return _standing(versions, [new for new in versions if new.acked and new.ended <= at])

    def wrong_after_crash(self, image: bytes | bytearray) -> Wrong | None:
        """What is wrong with a volume after a crash of its controller (law L5)."""
        for sector in self._doubtful([image]):
            versions = self._versions[sector]
            raw = image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            allowed = _standing(versions, [new for new in versions if new.durable])
            wrong = _judge(raw, sector, allowed)
            if wrong is not None:
                return wrong
        return None

    def newest_in(self, image: bytes | bytearray) -> int:
        """When the newest of the writes in an image began; -1 where there is none."""
        newest = -1
        for sector in range(self.sectors):
            number = author(image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES], sector)
            version = self.known.get(number)
            if version is not None:
                newest = max(newest, version.started)
        return newest

    def wrong_instant(self, image: bytes | bytearray, began: int, ended: int) -> Wrong | None:
        """Why an image is no single instant of this volume between two events (law L11).

        Whatever was acknowledged before the newest write in the image began has to be in it.
        """
        seen: list[int] = []
        latest = began
        for sector in range(self.sectors):
            number = author(image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES], sector)
            seen.append(number)
            version = self.known.get(number)
            if version is not None and version.started > latest:
                latest = version.started
            if version is not None and version.started > ended:
                return Wrong(sector, number, "nothing that began after the split was over")
        for sector in range(self.sectors):
            raw = image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            wrong = _judge(raw, sector, self._current(sector, latest))
            if wrong is not None:
                return wrong
        return None

    def older_than(self, version: Version, data: bytes, offset_bytes: int) -> Wrong | None:
        """A sector that holds something which `version` has replaced."""
        first = offset_bytes // SECTOR_BYTES
        for at in range(len(data) // SECTOR_BYTES):
            raw = data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]
            allowed = _standing(self._versions[first + at], [version])
            wrong = _judge(raw, first + at, allowed)
            if wrong is not None:
                return wrong
        return None

    def rebase(self, images: list[bytes | bytearray], now: int, *, durable: bool) -> None:
        """The content was replaced: from here on each sector is as in one of these images.

        The first image is what reads see; `durable` says that it survives a crash.
        """
        self.rebased += 1
        self.unflushed = []
        stands: dict[int, Version] = {}
        loose: set[int] = set()
        for sector in self._doubtful(images):
            at = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            versions: list[Version] = []
            for index, image in enumerate(images):
                number = author(image[at], sector)
                if number not in stands:
                    stands[number] = Version(number, zero=number == 0, started=-1)
                if index == 0 or stands[number] not in versions:
                    versions.append(stands[number])
            self._versions[sector] = versions
            if len(versions) > 1:
                loose.add(sector // BLOCK_SECTORS)
        self._base, self._loose = bytes(images[0]), loose
        for version in stands.values():
            version.ended = now
            version.durable = version.acked = durable
        for version, sectors in self.flying.items():
            self._loosen(sectors)
            for sector in sectors:
                self._versions[sector].append(version)


def _standing(versions: list[Version], winners: list[Version]) -> list[Version]:
    """The versions that no winner has replaced: none began after they had ended."""
    newest = max((version.started for version in winners), default=-1)
    return [version for version in versions if version.ended > newest]


def _judge(raw: bytes | bytearray, sector: int, allowed: list[Version]) -> Wrong | None:
    number = author(raw, sector)
    if any((number == 0 and v.zero) or (number == v.number and number != 0) for v in allowed):
        return None
    return Wrong(sector, number, " or ".join(str(version) for version in allowed))


def _span(offset_bytes: int, length_bytes: int) -> range:
    return range(offset_bytes // SECTOR_BYTES, (offset_bytes + length_bytes) // SECTOR_BYTES)
