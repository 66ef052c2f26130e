"""The hot set of the write-intent log: bounded, least recent out first, never under a write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.intent import HotExtents, IntentLog, IntentRecord
from controller.volume.slots import SlotLayout, SlotRing
from controller.volume.store import StoreDone, StoreError, StoreFault
from tests.unit.volume.memory import MemoryStore

LAYOUT = SlotLayout(b"trilunIL", slot_bytes=4096, slots=4)
LIMIT = 6
extents = st.integers(0, 20)
steps = st.lists(
    st.tuples(st.just("want"), st.lists(extents, min_size=1, max_size=9))
    | st.tuples(st.sampled_from(["pin", "unpin"]), st.lists(extents, min_size=1, max_size=1)),
    max_size=40,
)


@given(steps)
def test_the_hot_set_against_a_list(steps: list[tuple[str, list[int]]]) -> None:
    hot = HotExtents(LIMIT)
    recent: list[int] = []
    pins: dict[int, int] = {}
    for action, named in steps:
        if action == "want":
            coming, leaving = hot.admit(named)
            idle = [each for each in recent if not pins[each]]
            assert set(coming) <= set(named) - set(recent)
            assert leaving == idle[: len(leaving)], "the least recent leave first"
            cold = set(named) - set(recent)
            assert len(coming) == min(len(cold), LIMIT - len(recent) + len(leaving))
            if len(cold) <= LIMIT - len(recent):
                assert not leaving, "nothing leaves while there is room"
            if cold and (idle or len(recent) < LIMIT):
                assert coming, "what can be made hot is"
            hot.replace(leaving, coming)
            recent = [each for each in recent if each not in leaving] + coming
            pins = {each: pins.get(each, 0) for each in recent}
        elif action == "pin" and named[0] in recent:
            hot.pin(named[0])
            recent.remove(named[0])
            recent.append(named[0])
            pins[named[0]] += 1
        elif action == "unpin" and pins.get(named[0]):
            hot.unpin(named[0])
            pins[named[0]] -= 1
        assert hot.snapshot() == tuple(sorted(recent))
        assert len(recent) <= LIMIT
        assert all((each in hot) == (each in recent) for each in range(21))


class Volume:
    """What the log asks of its volume."""

    def __init__(self, limit: int = 2) -> None:
        self.inner = MemoryStore(LAYOUT.ring_bytes)
        self.store = FaultyStore(self.inner)
        self.settling: list[StoreDone] = []
        self.ready = 0
        self.failures: list[StoreError] = []
        self.log = IntentLog(
            SlotRing(self.store, LAYOUT),
            extent_bytes=65536,
            limit=limit,
            settle=self.settling.append,
            ready=self.count,
            failed=self.failures.append,
        )

    def count(self) -> None:
        self.ready += 1

    async def on_disk(self) -> set[int]:
        raw = await SlotRing(self.inner, LAYOUT).load()
        assert raw is not None
        return set(IntentRecord.decode(raw).extents)


async def test_an_extent_is_hot_only_once_the_log_says_so_on_disk() -> None:
    volume = Volume()
    volume.store.rules = [FaultRule("flush", "hold")]
    volume.log.want(3, 4)
    assert not volume.log.covers(3, 4)
    assert volume.log.busy
    volume.store.release()
    assert volume.log.covers(3, 4)
    assert volume.ready == 1
    assert await volume.on_disk() == {3, 4}


async def test_an_extent_leaves_only_after_the_volume_has_settled() -> None:
    volume = Volume()
    volume.log.want(1, 2)
    volume.log.want(7, 7)
    assert await volume.on_disk() == {1, 2}, "on disk until what it covers is safe"
    assert not volume.log.covers(1, 1), "but no new write may rely on it"
    (settled,) = volume.settling
    settled(None)
    assert volume.log.covers(7, 7)
    assert await volume.on_disk() == {2, 7}


async def test_extents_under_a_write_stay_and_the_wanted_ones_wait() -> None:
    volume = Volume()
    volume.log.want(1, 2)
    for extent in (1, 2):
        volume.log.hot.pin(extent)
    volume.log.want(9, 9)
    assert not volume.settling
    volume.log.hot.unpin(2)
    volume.log.turn()
    volume.settling.pop()(None)
    assert volume.log.covers(1, 1)
    assert volume.log.covers(9, 9)
    assert await volume.on_disk() == {1, 9}


def test_a_log_that_cannot_be_written_fails_its_volume() -> None:
    for rule in (FaultRule("write", "fail"), FaultRule("flush", "fail")):
        volume = Volume()
        volume.store.rules = [rule]
        volume.log.want(1, 1)
        assert len(volume.failures) == 1
        assert not volume.log.covers(1, 1)
    volume = Volume()
    volume.log.want(1, 2)
    volume.log.want(3, 3)
    failure = StoreError(StoreFault.IO, "on purpose")
    volume.settling.pop()(failure)
    assert volume.failures == [failure]
    assert not volume.log.covers(3, 3)
