"""How a volume becomes larger under its hosts: what may grow, and the order of the steps.

Owns that order: the file, a flush, the superblocks, the catalogue, then hosts. A crash before the
catalogue says so leaves the old size, and zeros behind it that nobody ever saw. Must not know
pairs or front ends. Fails with RejectedError, and hosts have what they had.
"""

from __future__ import annotations

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.catalogue import Catalogue, VolumeRecord
from controller.shelved import Shelved
from controller.volume.metadata import note_size
from controller.volume.store import GrowingStore, StoreError, StoreFault, finished


def grows(record: VolumeRecord, size_bytes: int) -> bool:
    """Whether there is anything to do; RejectedError where a volume can't get this size."""
    if size_bytes < record.size_bytes:
        raise RejectedError(
            Code.BAD_REQUEST,
            f"'{record.name}' has {record.size_bytes} bytes, and never shrinks",
            "give a larger size, or make another volume and copy what is on it",
        )
    if not record.healthy:
        raise RejectedError(
            Code.NOT_CONSISTENT, f"volume '{record.name}' has failed", "make another volume"
        )
    return size_bytes > record.size_bytes


async def grow(shelved: Shelved, catalogue: Catalogue, size_bytes: int) -> None:
    """Let a volume that is in no pair and under no view have `size_bytes`."""
    record, volume = shelved.record, shelved.volume
    assert isinstance(volume.store, GrowingStore)
    assert shelved.metadata is not None
    before = (record.size_bytes, record.metadata_generation)
    try:
        volume.store.lengthen(size_bytes)
        await finished(volume.flush_store)
        metadata = await note_size(shelved.metadata, size_bytes)
        record.size_bytes, record.metadata_generation = size_bytes, metadata.generation
        await catalogue.commit()
    except StoreError as error:
        record.size_bytes, record.metadata_generation = before
        code = Code.NO_SPACE if error.fault is StoreFault.NO_SPACE else Code.IO_ERROR
        raise RejectedError(
            code, f"'{record.name}' can't grow: {error.detail}", "it has the size it had"
        ) from error
    shelved.metadata = metadata
    volume.size_bytes = size_bytes
    if volume.intent is not None:
        volume.intent.extents = -(-size_bytes // volume.intent.extent_bytes)
