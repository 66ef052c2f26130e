"""The copy-on-write overlay against a bytearray, and a base that never changes (law L13)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.overlay import OverlayStore
from controller.volume.store import StoreError, StoreFault, finished
from tests.unit.volume.memory import MemoryStore

BLOCK = 4096
SIZE = 6 * BLOCK
BASE = bytes(1 + at * 7 % 251 for at in range(SIZE))

edges = st.integers(0, SIZE - 1) | st.sampled_from([0, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
ranges = st.tuples(edges, st.integers(1, 2 * BLOCK + 9) | st.sampled_from([BLOCK, 2 * BLOCK]))
steps = st.lists(st.tuples(st.sampled_from(["write", "discard"]), ranges), max_size=8)


@given(steps, ranges)
async def test_an_overlay_is_a_copy_of_its_base(
    steps: list[tuple[str, tuple[int, int]]], window: tuple[int, int]
) -> None:
    base, delta = MemoryStore(SIZE, BASE), MemoryStore(SIZE)
    overlay = OverlayStore(base, delta)
    model = bytearray(BASE)
    for number, (action, (offset, length)) in enumerate(steps):
        length = min(length, SIZE - offset)
        if action == "write":
            data = memoryview(bytes([number]) * length)
            await finished(lambda done, o=offset, d=data: overlay.write(o, d, done))  # type: ignore[misc]
            model[offset : offset + length] = data
        else:
            await finished(lambda done, o=offset, n=length: overlay.discard(o, n, done))  # type: ignore[misc]
            model[offset : offset + length] = bytes(length)
    for offset, length in (window, (0, SIZE)):
        length = min(length, SIZE - offset)
        into = memoryview(bytearray(length))
        await finished(lambda done, o=offset, i=into: overlay.read(o, i, done))  # type: ignore[misc]
        assert bytes(into) == model[offset : offset + length]
    assert base.raw == BASE


async def read(overlay: OverlayStore) -> bytes:
    into = memoryview(bytearray(SIZE))
    await finished(lambda done: overlay.read(0, into, done))
    return bytes(into)


async def test_writes_that_wait_for_the_base_meet_in_one_block() -> None:
    base = FaultyStore(MemoryStore(SIZE, BASE), [FaultRule("read", "hold", times=2)])
    overlay = OverlayStore(base, MemoryStore(SIZE))
    ended: list[StoreError | None] = []
    overlay.write(10, memoryview(b"aaaa"), ended.append)
    overlay.write(BLOCK - 2, memoryview(b"bb"), ended.append)
    overlay.write(100, memoryview(b"c" * BLOCK), ended.append)
    base.release()
    assert ended == [None, None, None]
    expected = bytearray(BASE)
    expected[10:14] = b"aaaa"
    expected[100 : 100 + BLOCK] = b"c" * BLOCK
    found = await read(overlay)
    assert found[: BLOCK - 2] == expected[: BLOCK - 2]
    assert found[BLOCK:] == expected[BLOCK:]


async def test_it_fails_as_the_stores_beneath_do() -> None:
    base, delta = FaultyStore(MemoryStore(SIZE, BASE)), FaultyStore(MemoryStore(SIZE))
    overlay = OverlayStore(base, delta)
    ended: list[StoreError | None] = []
    base.rules = [FaultRule("read", "fail")]
    overlay.write(1, memoryview(b"x"), ended.append)
    delta.rules = [FaultRule("write", "fail"), FaultRule("discard", "no_space")]
    overlay.write(1, memoryview(b"x"), ended.append)
    overlay.discard(2 * BLOCK, BLOCK, ended.append)
    faults = [error and error.fault for error in ended]
    assert faults == [StoreFault.IO, StoreFault.IO, StoreFault.NO_SPACE]


def test_closing_a_view_leaves_the_base_open() -> None:
    base, delta = MemoryStore(SIZE), MemoryStore(SIZE)
    OverlayStore(base, delta).close()
    assert (base.closed, delta.closed) == (False, True)
