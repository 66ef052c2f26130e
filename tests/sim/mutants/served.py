"""Bugs in what hosts are served: answers, flushes, failures, views."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import controller.volume.volume as volume_module
from controller.pair.side import PairSide
from controller.volume.early import EarlyImage
from controller.volume.overlay import OverlayStore
from controller.volume.store import BlockStore, StoreDone, StoreError
from controller.volume.volume import Volume
from controller.volume.write import JoinedParts, WriteOp, lun_error
from targets.lun import Done
from tests.sim.mutants.plant import Mutant, Patch


def _failed_write_unmarked() -> list[Patch]:
    def store_failed(_side: PairSide, _op: WriteOp, _error: StoreError) -> None:
        return

    return [(PairSide, "store_failed", store_failed)]


def _failed_flush_ignored() -> list[Patch]:
    def fail(_volume: Volume, _error: StoreError) -> None:
        return

    return [(Volume, "fail", fail)]


def _write_overtakes_queue() -> list[Patch]:
    real = Volume._accept

    def accept(volume: Volume, op: WriteOp) -> None:
        if volume._failure is None and volume._ready(op):
            volume._submit(op)
        else:
            real(volume, op)

    return [(Volume, "_accept", accept)]


def _flush_retried() -> list[Patch]:
    def flush(volume: Volume, done: Done) -> None:
        def flushed(error: StoreError | None) -> None:
            if error is not None:
                volume.store.flush(flushed)
            else:
                joined.end()

        joined = JoinedParts(done)
        volume.store.flush(flushed)

    return [(Volume, "flush", flush)]


def _fua_not_flushed() -> list[Patch]:
    def flushed_first(_flush: Callable[[Done], None], answer: Done) -> Done:
        return answer

    return [(volume_module, "flushed_first", flushed_first)]


def _flush_answered_early() -> list[Patch]:
    def flush(volume: Volume, done: Done) -> None:
        volume.store.flush(lambda _error: None)
        failure = volume._failure
        done(None if failure is None else lun_error(failure, reading=False))

    return [(Volume, "flush", flush)]


def _view_writes_through() -> list[Patch]:
    def write(view: OverlayStore, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        base = view._base
        base = base._new if isinstance(base, EarlyImage) else base
        cast("BlockStore", base).write(offset_bytes, data, done)

    return [(OverlayStore, "write", write)]


def _early_view_of_the_target() -> list[Patch]:
    def read(view: EarlyImage, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        view._new.read(offset_bytes, into, done)

    return [(EarlyImage, "read", read)]


def _early_view_of_the_source() -> list[Patch]:
    def read(view: EarlyImage, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        view._old.read(offset_bytes, into, done)

    return [(EarlyImage, "read", read)]


MUTANTS = [
    Mutant("early view of the S-VOL alone", "L11", _early_view_of_the_target),
    Mutant("early view of the P-VOL alone", "L11", _early_view_of_the_source),
    Mutant("failed write not marked", "L10", _failed_write_unmarked),
    Mutant("failed flush ignored", "L10", _failed_flush_ignored),
    Mutant("write overtakes queued write", "L3", _write_overtakes_queue),
    Mutant("failed fsync retried", "L10", _flush_retried),
    Mutant("FUA not flushed", "L5", _fua_not_flushed),
    Mutant("flush answered early", "L5", _flush_answered_early),
    Mutant("view writes through", "L13", _view_writes_through),
]
