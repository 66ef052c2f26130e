"""Laws that a pair of crash images can be asked about, read with the real decoders.

Owns the reading of images. Pure: it is handed files as bytes. Reports what is wrong as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from controller.catalogue import LAYOUT as CATALOGUE_LAYOUT
from controller.catalogue import Contents, VolumeRecord
from controller.pair.record import PairRecord
from controller.volume.bitmap import BLOCK_BYTES, PAGE_BITS, DirtyBitmap
from controller.volume.bitmap_file import SLOT_BYTES, decode_page, encode_header
from controller.volume.intent import IntentRecord
from controller.volume.slots import SlotLayout, decode_slot
from controller.volume.superblock import Identity, read_image

Image = bytes | bytearray | memoryview
Files = Mapping[str, bytes | bytearray]


def newest_slot(layout: SlotLayout, raw: Image) -> tuple[int, bytes] | None:
    """What a start would read from a ring; None when nothing in it is valid."""
    window = memoryview(raw)
    found = [
        slot
        for at in range(0, layout.ring_bytes, layout.slot_bytes)
        if (slot := decode_slot(layout, window[at : at + layout.slot_bytes])) is not None
    ]
    return max(found, default=None)


def read_catalogue(files: Files) -> Contents | None:
    """A machine's catalogue; None where there is none yet, ValueError when it can't be read."""
    raw = files.get("catalogue")
    if raw is None:
        return None
    found = newest_slot(CATALOGUE_LAYOUT, raw)
    payload = found[1] if found is not None else None
    if payload is None and raw.count(0) == len(raw):
        return None
    if payload is None:
        raise ValueError("no slot of the catalogue is valid")
    try:
        return Contents.model_validate_json(payload)
    except ValidationError as error:
        raise ValueError(str(error)) from error


def read_intent(volume: VolumeRecord, raw: bytes | bytearray) -> IntentRecord | None:
    """A volume's log; None when it can't be trusted and everything counts as hot."""
    identity = Identity(bytes.fromhex(volume.id), volume.size_bytes, volume.metadata_generation)
    return read_image(raw, identity, newest_slot)


def first_difference(one: bytes | bytearray, two: bytes | bytearray) -> int | None:
    """The first byte in which two images differ."""
    if one == two:
        return None
    for at in range(0, len(one), BLOCK_BYTES):
        mine, theirs = one[at : at + BLOCK_BYTES], two[at : at + BLOCK_BYTES]
        if mine != theirs:
            return at + next(i for i in range(len(mine)) if mine[i] != theirs[i])
    return None


@dataclass(frozen=True)
class Half:
    """One side of a pair in its machine's files; what they say is worked out when it is asked."""

    record: PairRecord
    volume: VolumeRecord
    data: bytes | bytearray
    bitmap_file: bytes | bytearray
    metadata_file: bytes | bytearray

    @cached_property
    def bits(self) -> DirtyBitmap:
        """Marked on disk."""
        return _bits(self.record, self.volume.size_bytes // BLOCK_BYTES, self.bitmap_file)

    @cached_property
    def covered(self) -> DirtyBitmap:
        """Marked, or in an extent that is taken as dirty at the next start."""
        covered = DirtyBitmap(self.bits.blocks)
        covered.union(self.bits)
        log = read_intent(self.volume, self.metadata_file)
        if log is None:
            covered.set_all()
        else:
            step = log.extent_bytes // BLOCK_BYTES
            for extent in log.extents:
                first = extent * step
                covered.set(first, min(step, covered.blocks - first))
        return covered


def _bits(record: PairRecord, blocks: int, raw: bytes | bytearray) -> DirtyBitmap:
    bitmap = DirtyBitmap(blocks)
    pair_id = bytes.fromhex(record.id)
    if bytes(raw[:SLOT_BYTES]) != encode_header(blocks, pair_id):
        bitmap.set_all()
        return bitmap
    for page in range(bitmap.page_count):
        at = SLOT_BYTES * (1 + page)
        found = decode_page(memoryview(raw)[at : at + SLOT_BYTES], page, pair_id)
        bitmap.merge_page(page, (1 << PAGE_BITS) - 1 if found is None else found)
    return bitmap


def halves(data: Files, meta: Files) -> Iterator[Half]:
    """Every side of every pair on a machine."""
    contents = read_catalogue(meta)
    if contents is None:
        return
    volumes = {volume.name: volume for volume in contents.volumes}
    for record in contents.pairs:
        volume = volumes[record.volume]
        name = record.bitmap_name
        if name not in meta:
            raise ValueError(f"pair '{record.name}' has no bitmap file")
        yield Half(
            record, volume, data[f"{volume.id}.volume"], meta[name], meta[f"{volume.id}.meta"]
        )


def uncovered(machines: list[tuple[Files, Files]]) -> str | None:
    """Law L1 over the crash images of all machines; what breaks it, or None."""
    sides: dict[str, list[Half]] = {}
    for data, meta in machines:
        for half in halves(data, meta):
            sides.setdefault(half.record.id, []).append(half)
    for pair in sides.values():
        if len(pair) != 2:
            continue
        one, two = pair
        if one.data == two.data:
            continue
        for block in range(len(one.data) // BLOCK_BYTES):
            at = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
            if one.data[at] != two.data[at] and not (
                one.covered.test(block) or two.covered.test(block)
            ):
                return (
                    f"pair '{one.record.name}' ({one.record.state}/{two.record.state}): block "
                    f"{block} differs and is neither marked nor hot on either side"
                )
    return None


def not_clear(machines: list[tuple[Files, Files]]) -> str | None:
    """Law L3 over the images at rest: no bit is left on disk."""
    for data, meta in machines:
        for half in halves(data, meta):
            if len(half.bits):
                return (
                    f"pair '{half.record.name}', {half.record.role}: "
                    f"{len(half.bits)} bits are still set on disk"
                )
    return None
