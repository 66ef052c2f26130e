"""Opens a volume's metadata file: lays it out, checks whose it is, cuts its ring anew.

Owns the order of those steps, each of which leaves a file that a start reads as what was hot or
as a superset of that. Must not be used while the volume serves: superblocks are no hot path.
Fails with StoreError when the disk does. A file that can't be believed is not an error: it is
laid out anew, and everything counts as hot until the first commit to it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from controller.volume.intent import IntentRecord
from controller.volume.slots import CorruptError, SlotRing
from controller.volume.store import BlockStore, Disk, StoreError, StoreFault, finished
from controller.volume.superblock import (
    FILE_BYTES,
    SUPERBLOCKS,
    Identity,
    IntentSettings,
    Superblock,
)

log = logging.getLogger(__name__)


def metadata_file(volume_id: str) -> str:
    """The file's name."""
    return f"{volume_id}.meta"


@dataclass(frozen=True, slots=True)
class Metadata:
    """An open metadata file."""

    store: BlockStore
    ring: SlotRing
    hot: IntentRecord | None
    """What was hot when the volume was last served; None: nothing is known."""
    generation: int
    """For the catalogue to note: no valid copy of this file is older from here on."""
    superblock: Superblock


async def create_metadata(
    disk: Disk, volume_id: str, size_bytes: int, settings: IntentSettings
) -> Metadata:
    """Make the file of a new volume, with nothing hot."""
    store = _made(disk, volume_id)
    superblocks = SlotRing(store, SUPERBLOCKS)
    superblock = Superblock.plan(bytes.fromhex(volume_id), size_bytes, 1, settings)
    zeros = memoryview(bytes(FILE_BYTES))
    # Written over once: a commit later changes no metadata of the file system.
    await finished(lambda done: store.write(0, zeros, done))
    await _write(superblocks, superblock)
    ring = SlotRing(store, superblock.ring)
    hot = IntentRecord(settings.extent_bytes, clean=True, extents=())
    await finished(lambda done: ring.commit(hot.encode(), done))
    return Metadata(store, ring, hot, superblocks.sequence - 1, superblock)


async def open_metadata(
    disk: Disk, volume_id: str, identity: Identity, settings: IntentSettings
) -> Metadata:
    """Open the file of a volume; one that is missing, damaged, foreign or old is made anew.

    Each start writes the superblocks with a new generation, so that a file of an earlier run
    that is put back in its place is known for what it is.
    """
    store = _opened(disk, volume_id)
    superblocks = SlotRing(store, SUPERBLOCKS, after=identity.generation + 1)
    superblock: Superblock | None = None
    hot: IntentRecord | None = None
    ring: SlotRing | None = None
    try:
        payload = await _record(superblocks)
        superblock = identity.believe(superblocks.sequence, payload)
        ring = SlotRing(store, superblock.ring)
        hot = superblock.record(await _record(ring))
    except CorruptError as error:
        log.warning("volume %s: %s; everything is taken as dirty", volume_id, error)
    if superblocks.sequence <= identity.generation:
        superblocks = SlotRing(store, SUPERBLOCKS, after=identity.generation + 1)
    if superblock is None or hot is None or superblock.settings != settings:
        epoch = superblocks.sequence + 1
        superblock = Superblock.plan(identity.volume_id, identity.size_bytes, epoch, settings)
        ring = None
    await _write(superblocks, superblock)
    if ring is None:
        ring = SlotRing(store, superblock.ring)
        # Until the first record is in the new ring, nothing in it is valid: all counts as hot.
        zeros = memoryview(bytes(superblock.ring.ring_bytes))
        await finished(lambda done: store.write(superblock.ring_offset_bytes, zeros, done))
        kept = None if hot is None else rescaled(hot, settings, identity.size_bytes)
        if kept is not None:
            await finished(lambda done: ring.commit(kept.encode(), done))
    return Metadata(store, ring, hot, superblocks.sequence - 1, superblock)


async def note_size(metadata: Metadata, size_bytes: int) -> Metadata:
    """Write down what a volume has grown to. The ring stays: what was hot is where it was.

    A file that says so when the catalogue doesn't is made anew at the next start, with everything
    dirty. Until then the volume must not come into a pair: who calls this fails it (law L10).
    """
    superblocks = SlotRing(metadata.store, SUPERBLOCKS, after=metadata.generation + 1)
    superblock = replace(metadata.superblock, size_bytes=size_bytes)
    await _write(superblocks, superblock)
    return replace(metadata, generation=superblocks.sequence - 1, superblock=superblock)


def rescaled(hot: IntentRecord, settings: IntentSettings, size_bytes: int) -> IntentRecord | None:
    """A record that covers at least the same bytes in other extents; None when it can't."""
    extents: set[int] = set()
    for extent in hot.extents:
        first = extent * hot.extent_bytes
        last = min(first + hot.extent_bytes, size_bytes) - 1
        extents.update(range(first // settings.extent_bytes, last // settings.extent_bytes + 1))
        if len(extents) > settings.hot_extents:
            return None
    return replace(hot, extent_bytes=settings.extent_bytes, extents=tuple(sorted(extents)))


async def _record(ring: SlotRing) -> bytes:
    found = await ring.load()
    if found is None:
        raise CorruptError("the metadata was never written")
    return found


async def _write(superblocks: SlotRing, superblock: Superblock) -> None:
    """Both copies, one after the other: one of them is whole at every moment."""
    raw = superblock.encode()
    for _ in range(SUPERBLOCKS.slots):
        await finished(lambda done: superblocks.commit(raw, done))


def _made(disk: Disk, volume_id: str) -> BlockStore:
    return disk.open(metadata_file(volume_id), FILE_BYTES, create=True, reserve=True)


def _opened(disk: Disk, volume_id: str) -> BlockStore:
    name = metadata_file(volume_id)
    try:
        if disk.exists(name):
            return disk.open(name, FILE_BYTES, create=False)
        log.warning("%s is missing", name)
    except StoreError as error:
        if error.fault is not StoreFault.WRONG_SIZE:
            raise
        log.warning("%s", error)
        disk.remove(name)
    return _made(disk, volume_id)
