"""The dirty bitmap: one bit a 4 KiB block, kept in pages that exist only where they matter.

Owns which blocks of one pair's one side may differ. Pure: no files, no clock. A page is a
Python integer of PAGE_BITS bits; an absent page is all zeros and a page of ones is one shared
integer, so a 1 TiB volume costs nothing when clean and next to nothing when all dirty.
Ranges outside the bitmap are our own mistake and asserted.
"""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_BYTES = 4096
PAGE_BYTES = 4032
"""Payload of a stored page: 4 KiB less a 64-byte header (docs/formats.md)."""
PAGE_BITS = PAGE_BYTES * 8

_FULL = (1 << PAGE_BITS) - 1


def block_range(offset_bytes: int, length_bytes: int) -> tuple[int, int]:
    """First block and count of all blocks a byte range touches, even partly."""
    first = offset_bytes // BLOCK_BYTES
    end = -(-(offset_bytes + length_bytes) // BLOCK_BYTES)
    return first, end - first


def stretches(
    marks: DirtyBitmap, offset_bytes: int, length_bytes: int
) -> list[tuple[int, int, bool]]:
    """Cut a byte range where marked and other blocks meet: (start, end, marked)."""
    parts: list[tuple[int, int, bool]] = []
    at, end_bytes = offset_bytes, offset_bytes + length_bytes
    while at < end_bytes:
        run = marks.next_run(at // BLOCK_BYTES, marks.blocks)
        first = end_bytes if run is None else run[0] * BLOCK_BYTES
        marked = run is not None and first <= at
        stop = (run[0] + run[1]) * BLOCK_BYTES if run is not None and marked else first
        parts.append((at, min(stop, end_bytes), marked))
        at = stop
    return parts


def runs_of(bits: int) -> Iterator[tuple[int, int]]:
    """The runs of ones of an integer: (first, count)."""
    at = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        length = (~bits & (bits + 1)).bit_length() - 1
        yield at + skip, length
        bits >>= length
        at += skip + length


class DirtyBitmap:
    """Bits for `blocks` blocks. `changed` collects the pages that differ from what is stored."""

    def __init__(self, blocks: int) -> None:
        assert blocks > 0
        self.blocks = blocks
        self.changed: set[int] = set()
        self._pages: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many bits are set."""
        return self._count

    @property
    def dirty_bytes(self) -> int:
        """Bytes of the blocks marked."""
        return self._count * BLOCK_BYTES

    @property
    def page_count(self) -> int:
        """Pages needed to store the whole bitmap."""
        return -(-self.blocks // PAGE_BITS)

    def set(self, first_block: int, count: int) -> None:
        """Mark `count` blocks."""
        for page, mask in self._masks(first_block, count):
            old = self._pages.get(page, 0)
            new = old | mask
            if new != old:
                self._replace(page, old, new)

    def clear(self, first_block: int, count: int) -> None:
        """Unmark `count` blocks."""
        for page, mask in self._masks(first_block, count):
            old = self._pages.get(page, 0)
            new = old & ~mask
            if new != old:
                self._replace(page, old, new)

    def set_all(self) -> None:
        """Mark every block."""
        self.set(0, self.blocks)

    def clear_all(self) -> None:
        """Unmark every block."""
        self.changed.update(self._pages)
        self._pages.clear()
        self._count = 0

    def test(self, block: int) -> bool:
        """Whether a block is marked."""
        assert 0 <= block < self.blocks
        page, bit = divmod(block, PAGE_BITS)
        return bool(self._pages.get(page, 0) >> bit & 1)

    def count_in(self, first_block: int, count: int) -> int:
        """How many of `count` blocks are marked."""
        return sum(
            (self._pages.get(page, 0) & mask).bit_count()
            for page, mask in self._masks(first_block, count)
        )

    def next_run(self, from_block: int, max_blocks: int) -> tuple[int, int] | None:
        """The first run of marked blocks at or after `from_block`: (first, count ≤ max_blocks).

        A run may end early at a page's border; None when nothing is marked from there on.
        """
        if from_block >= self.blocks or not self._count:
            return None
        page, bit = divmod(from_block, PAGE_BITS)
        value = self._pages.get(page, 0) >> bit
        if not value:
            # Page by page, so that a whole pass costs no more than there are pages.
            page += 1
            while page not in self._pages:
                page += 1
                if page >= self.page_count:
                    return None
            bit, value = 0, self._pages[page]
        skip = (value & -value).bit_length() - 1
        value >>= skip
        length = (~value & (value + 1)).bit_length() - 1
        return page * PAGE_BITS + bit + skip, min(length, max_blocks)

    def clear_runs(self, first_block: int, count: int) -> Iterator[tuple[int, int]]:
        """The runs of unmarked blocks among `count` blocks, in order; a page ends a run."""
        for page, mask in self._masks(first_block, count):
            for at, length in runs_of(mask & ~self._pages.get(page, 0)):
                yield page * PAGE_BITS + at, length

    def runs(self, max_blocks: int = 1 << 40) -> Iterator[tuple[int, int]]:
        """All runs of marked blocks, in order."""
        at = 0
        while (run := self.next_run(at, max_blocks)) is not None:
            yield run
            at = run[0] + run[1]

    def union(self, other: DirtyBitmap) -> None:
        """Mark whatever `other` has marked."""
        assert other.blocks == self.blocks
        for page, bits in other._pages.items():
            self.merge_page(page, bits)

    def merge_page(self, page: int, bits: int) -> None:
        """Mark the blocks of one page given as an integer; bits beyond the end are dropped."""
        old = self._pages.get(page, 0)
        new = old | (bits & self._page_mask(page))
        if new != old:
            self._replace(page, old, new)

    def used_pages(self) -> list[int]:
        """Numbers of the pages with any bit set, in order."""
        return sorted(self._pages)

    def page(self, page: int) -> int:
        """One page as an integer; bit n is block page * PAGE_BITS + n."""
        return self._pages.get(page, 0)

    def _page_mask(self, page: int) -> int:
        assert 0 <= page < self.page_count
        in_page = min(PAGE_BITS, self.blocks - page * PAGE_BITS)
        return _FULL if in_page == PAGE_BITS else (1 << in_page) - 1

    def _masks(self, first_block: int, count: int) -> Iterator[tuple[int, int]]:
        assert first_block >= 0
        assert count >= 0
        assert first_block + count <= self.blocks
        while count:
            page, bit = divmod(first_block, PAGE_BITS)
            in_page = min(count, PAGE_BITS - bit)
            yield page, _FULL if in_page == PAGE_BITS else ((1 << in_page) - 1) << bit
            first_block += in_page
            count -= in_page

    def _replace(self, page: int, old: int, new: int) -> None:
        self._count += new.bit_count() - old.bit_count()
        if new:
            self._pages[page] = _FULL if new == _FULL else new
        else:
            del self._pages[page]
        self.changed.add(page)
