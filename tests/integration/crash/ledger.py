"""What a volume may show, sector by sector, when every command's fate is known or in doubt.

Owns the content of test writes (each sector names its write and itself) and the rules: what was
acknowledged has to be there, what was not may be there or not, anything else never. Safe to use
from several threads. Fails with AssertionError that names the sector.
"""

from __future__ import annotations

import struct
import threading

SECTOR_BYTES = 512
_STAMP = struct.Struct("<QQ")
_ZEROS = bytes(SECTOR_BYTES)
DISCARDED = 0
"""Tag of what shows as zeros: never written, or discarded."""


def content(tag: int, first: int, count: int) -> bytes:
    """What write `tag` puts into `count` sectors from `first` on."""
    times = SECTOR_BYTES // _STAMP.size
    return b"".join(_STAMP.pack(tag, first + index) * times for index in range(count))


def tag_of(raw: bytes, sector: int) -> int:
    """Which write a sector shows; AssertionError when it is none's, or of another place."""
    if raw == _ZEROS:
        return DISCARDED
    tag, where = _STAMP.unpack_from(raw)
    assert raw == raw[: _STAMP.size] * (SECTOR_BYTES // _STAMP.size), f"sector {sector} is torn"
    assert where == sector, f"sector {sector} shows sector {where} of write {tag}"
    assert tag != DISCARDED, f"sector {sector} shows bytes that nobody wrote"
    return int(tag)


class Ledger:
    """The allowed tags of each sector of one volume."""

    def __init__(self, size_bytes: int) -> None:
        self.sectors = size_bytes // SECTOR_BYTES
        self._allowed = [frozenset({DISCARDED})] * self.sectors
        self._floors: list[Ledger] = []
        self._lock = threading.Lock()

    def begin(self, tag: int, first: int, count: int) -> None:
        """A command is about to be sent: from now on its sectors may show it."""
        with self._lock:
            for ledger in (self, *self._floors):
                ledger._may_show(tag, first, count)

    def _may_show(self, tag: int, first: int, count: int) -> None:
        for sector in range(first, first + count):
            self._allowed[sector] |= {tag}

    def acknowledged(self, tag: int, first: int, count: int) -> None:
        """It was answered with GOOD: nothing older may show."""
        with self._lock:
            self._allowed[first : first + count] = [frozenset({tag})] * count

    def floor(self) -> Ledger:
        """What is promised now, as a ledger that later commands may add to but not narrow.

        It says what the other side of a pair must hold that is cut off about now.
        """
        with self._lock:
            floor = self._copy()
            self._floors.append(floor)
            return floor

    def close_floor(self, floor: Ledger) -> None:
        """No later command may show in it."""
        with self._lock:
            self._floors.remove(floor)

    def copy(self) -> Ledger:
        """The same promises, for a volume that parts from this one."""
        with self._lock:
            return self._copy()

    def _copy(self) -> Ledger:
        copied = Ledger(0)
        copied.sectors, copied._allowed = self.sectors, list(self._allowed)
        return copied

    def check(self, data: bytes, what: str, first: int = 0, *, settle: bool = False) -> None:
        """Compare with what was read. With `settle`, what was in doubt is now what was seen."""
        with self._lock:
            for index in range(len(data) // SECTOR_BYTES):
                sector = first + index
                tag = tag_of(data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES], sector)
                allowed = self._allowed[sector]
                assert tag in allowed, (
                    f"{what}: sector {sector} shows write {tag}, not one of {sorted(allowed)}"
                )
                if settle and len(allowed) > 1:
                    self._allowed[sector] = frozenset({tag})
