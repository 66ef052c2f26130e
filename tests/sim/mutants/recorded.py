"""Bugs in what is recorded: the write-intent log, the bitmaps, and reading them at a start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import controller.pair.side as side_module
import controller.pairs as pairs_module
import controller.recovery as recovery_module
import controller.volume.bitmap_file as bitmap_file_module
import controller.volume.slots as slots_module
from controller.pair.owner import PairOwner
from controller.pair.side import PairSide
from controller.shelved import Shelved
from controller.volume.bitmap import BLOCK_BYTES
from controller.volume.bitmap_file import BitmapFile
from controller.volume.intent import HotExtents, IntentLog
from controller.volume.store import StoreDone
from controller.volume.volume import Volume
from tests.sim.mutants.plant import Mutant, Patch


def _settled_without_flush() -> list[Patch]:
    def settle(_volume: Volume, done: StoreDone) -> None:
        done(None)

    return [(Volume, "settle", settle)]


def _bits_not_saved() -> list[Patch]:
    def save(_side: PairSide, done: StoreDone) -> None:
        done(None)

    return [(PairSide, "save_bitmap", save)]


def _hot_taken_as_clean() -> list[Patch]:
    async def recover(_shelved: object, _owners: object) -> None:
        return

    return [(pairs_module, "recover", recover)]


def _written_before_intent() -> list[Patch]:
    real = HotExtents.pin

    def covers(_log: IntentLog, _first: int, _last: int) -> bool:
        return True

    def pin(hot: HotExtents, extent: int) -> None:
        hot.replace((), (extent,))
        real(hot, extent)

    return [(IntentLog, "covers", covers), (HotExtents, "pin", pin)]


def _torn_slot_accepted() -> list[Patch]:
    real = slots_module.decode_slot

    def decode(layout: Any, raw: Any) -> Any:
        header = slots_module._HEADER
        magic, _, _, length, sequence, _ = header.unpack_from(raw)
        if magic != layout.magic or length > layout.max_payload_bytes:
            return real(layout, raw)
        return sequence, bytes(raw[header.size : header.size + length])

    return [(slots_module, "decode_slot", decode)]


def _partly_written_block_unmarked() -> list[Patch]:
    def block_range(offset_bytes: int, length_bytes: int) -> tuple[int, int]:
        first = -(-offset_bytes // BLOCK_BYTES)
        return first, max(0, (offset_bytes + length_bytes) // BLOCK_BYTES - first)

    return [(side_module, "block_range", block_range)]


def _page_saved_once() -> list[Patch]:
    real = BitmapFile.save

    def save(file: BitmapFile, done: StoreDone) -> None:
        if file._saving:
            done(None)
        else:
            real(file, done)

    return [(BitmapFile, "save", save)]


class _NeverFlushed:
    """A store whose flushes are not waited for."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def flush(self, done: StoreDone) -> None:
        done(None)


def _bitmap_not_flushed() -> list[Patch]:
    real = BitmapFile.__init__

    def init(file: BitmapFile, store: Any, *rest: Any) -> None:
        real(file, store, *rest)
        file._store = _NeverFlushed(store)

    return [(BitmapFile, "__init__", init)]


def _missing_log_is_clean() -> list[Patch]:
    real = recovery_module.recover

    async def recover(shelved: Shelved, owners: list[PairOwner]) -> None:
        if shelved.hot_at_start is not None:
            await real(shelved, owners)

    return [(pairs_module, "recover", recover)]


def _damaged_page_is_clean() -> list[Patch]:
    real: Callable[..., int | None] = bitmap_file_module.decode_page

    def decode(raw: memoryview, page: int, pair_id: bytes) -> int:
        return real(raw, page, pair_id) or 0

    return [(bitmap_file_module, "decode_page", decode)]


MUTANTS = [
    Mutant("extent leaves without a flush", "L1", _settled_without_flush),
    Mutant("extent leaves without its bits", "L1", _bits_not_saved),
    Mutant("hot extents read as clean", "L1", _hot_taken_as_clean),
    Mutant("data before intent", "L4", _written_before_intent),
    Mutant("torn slot accepted", "L1", _torn_slot_accepted),
    Mutant("partly written block unmarked", "L1", _partly_written_block_unmarked),
    Mutant("save answered by another save", "L1", _page_saved_once, slow=355),
    Mutant("bitmap not flushed", "L1", _bitmap_not_flushed),
    Mutant("missing log read as clean", "L1", _missing_log_is_clean),
    Mutant("damaged bitmap read as clean", "L1", _damaged_page_is_clean),
]
