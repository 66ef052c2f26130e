"""How a volume becomes larger under its hosts: what may grow, and the order of the steps.

Owns that order: the file, a flush, the superblocks, the catalogue, then hosts. A crash before the
catalogue says so leaves the old size, and zeros behind it that nobody ever saw. Must not know
pairs or front ends. Fails with RejectedError: hosts have what they had, or, where a disk fails half
way, the volume has failed.
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
    except StoreError as error:
        raise _refused(record.name, error) from error
    try:
        await finished(volume.flush_store)
        metadata = await note_size(shelved.metadata, size_bytes)
        record.size_bytes, record.metadata_generation = size_bytes, metadata.generation
        await catalogue.commit()
    except StoreError as error:
        record.size_bytes, record.metadata_generation = before
        # Nobody knows what its log or the catalogue would say after a crash now (law L10).
        volume.fail(error)
        raise _refused(record.name, error) from error
    shelved.metadata = metadata
    volume.size_bytes = size_bytes
    if volume.intent is not None:
        volume.intent.extents = -(-size_bytes // volume.intent.extent_bytes)


def _refused(name: str, error: StoreError) -> RejectedError:
    if error.fault is StoreFault.NO_SPACE:
        return RejectedError(Code.NO_SPACE, f"no space for '{name}': {error.detail}", "free some")
    return RejectedError(
        Code.IO_ERROR, f"'{name}' can't grow: {error.detail}", "look at the disk it is on"
    )
