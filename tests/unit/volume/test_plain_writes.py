"""Writes to a volume that nobody follows: straight to the store, with the same answers."""

from __future__ import annotations

import pytest

from controller.volume import volume as module
from controller.volume.store import StoreDone, StoreError, StoreFault
from controller.volume.write import WriteOp
from targets.lun import LunError, LunFault
from tests.unit.volume.test_flushes import a_volume

BLOCK = memoryview(b"x" * 4096)


def test_it_costs_no_op_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> WriteOp:
        raise AssertionError("an op was made")

    monkeypatch.setattr(module, "WriteOp", none)
    volume, store = a_volume()
    answers: list[LunError | None] = []
    volume.write(8192, BLOCK, False, answers.append)
    assert answers == [None]
    assert store.raw[8192:12288] == BLOCK
    assert volume.idle


def test_fua_waits_for_a_flush() -> None:
    volume, store = a_volume()
    answers: list[LunError | None] = []
    volume.write(0, BLOCK, True, answers.append)
    assert answers == []
    store.held.popleft()(None)
    assert answers == [None]


def test_what_the_store_refuses_is_a_write_error_and_no_end_of_the_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume, store = a_volume()
    answers: list[LunError | None] = []

    def full(_offset_bytes: int, _data: memoryview, done: StoreDone) -> None:
        done(StoreError(StoreFault.NO_SPACE, "full"))

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        volume.write(0, BLOCK, False, answers.append)
        store.tear_after_bytes = 5
    volume.write(0, BLOCK, False, answers.append)
    store.tear_after_bytes = None
    volume.write(0, BLOCK, False, answers.append)
    assert [error and error.fault for error in answers] == [
        LunFault.NO_SPACE,
        LunFault.WRITE_ERROR,
        None,
    ]


def test_it_keeps_its_place_behind_what_waits() -> None:
    """A barrier that waits for a write that a thread does holds back those that come after."""
    volume, store = a_volume()
    order: list[str] = []
    volume._storing = 1  # a write is in a thread
    volume.barrier(lambda: order.append("barrier"))
    volume.write(0, BLOCK, False, lambda _error: order.append("write"))
    assert order == []
    volume._storing = 0
    volume.gate_opened()
    assert order == ["barrier", "write"]
    assert store.raw[:4096] == BLOCK
