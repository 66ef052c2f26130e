"""The hot set of the write-intent log: bounded, least recent out first, never under a write."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.intent import HotExtents, IntentLog, IntentRecord, Range
from controller.volume.slots import SlotLayout, SlotRing
from controller.volume.store import StoreDone, StoreError, StoreFault
from tests.unit.volume.memory import MemoryStore

LAYOUT = SlotLayout(b"trilunIL", slot_bytes=4096, slots=4)
LIMIT = 6
extents = st.integers(0, 20)
steps = st.lists(
    st.tuples(st.just("want"), st.lists(extents, min_size=1, max_size=9))
    | st.tuples(
        st.sampled_from(["pin", "unpin", "settle", "settled"]),
        st.lists(extents, min_size=1, max_size=1),
    ),
    max_size=60,
)


@given(steps)
def test_the_hot_set_against_a_model(steps: list[tuple[str, list[int]]]) -> None:
    hot = HotExtents(LIMIT)
    recent: list[int] = []
    pins: dict[int, int] = {}
    dirty: set[int] = set()
    settling: set[int] | None = None
    for action, named in steps:
        if action == "want":
            coming, leaving = hot.admit(named)
            cold = set(named) - set(recent)
            clean = set(recent) - dirty - (settling or set())
            assert set(coming) <= cold
            assert set(leaving) <= clean, "only what is safe leaves"
            assert len(coming) == min(len(cold), LIMIT - len(recent) + len(clean))
            assert len(leaving) == max(0, len(coming) - (LIMIT - len(recent)))
            hot.replace(leaving, ())
            hot.expect(coming)
            recent = [each for each in recent if each not in leaving]
            assert logged(hot) == set(recent) | set(coming)
            assert not any(each in hot for each in coming), "not before the record is durable"
            hot.replace((), coming)
            recent += coming
            dirty |= set(coming)
            pins = {each: pins.get(each, 0) for each in recent}
        elif action == "pin" and named[0] in recent:
            hot.pin(named[0])
            recent.remove(named[0])
            recent.append(named[0])
            pins[named[0]] += 1
            dirty.add(named[0])
            settling = settling and settling - {named[0]}
        elif action == "unpin" and pins.get(named[0]):
            hot.unpin(named[0])
            pins[named[0]] -= 1
        elif action == "settle" and settling is None:
            idle = {each for each in dirty if not pins[each]}
            assert hot.begin_settling() == bool(idle)
            settling, dirty = idle, dirty - idle
        elif action == "settled" and settling is not None:
            hot.end_settling()
            settling = None
        assert hot.snapshot() == tuple(sorted(recent))
        assert logged(hot) == set(recent)
        assert len(recent) <= LIMIT
        assert hot.spare == LIMIT - len(recent) + len(set(recent) - dirty - (settling or set()))


def logged(hot: HotExtents) -> set[int]:
    return set(IntentRecord.decode(hot.encode(65536)).extents)


def test_the_least_recently_written_leave_first() -> None:
    hot = HotExtents(4)
    hot.replace((), (1, 2, 3, 4))
    for extent in (3, 1, 4, 2, 3):
        hot.pin(extent)
        hot.unpin(extent)
    assert bool(hot.spare_is_low)
    assert hot.admit([9])[0] == []
    assert hot.begin_settling()
    hot.end_settling()
    assert hot.admit([7, 8, 9]) == ([7, 8, 9], [1, 4, 2])
    assert not hot.spare_is_low
    hot.pin(4)
    assert hot.admit([7, 8, 9]) == ([7, 8, 9], [1, 2, 3])


class Volume:
    """What the log asks of its volume."""

    def __init__(self, limit: int = 2) -> None:
        self.inner = MemoryStore(LAYOUT.ring_bytes)
        self.store = FaultyStore(self.inner)
        self.settling: list[StoreDone] = []
        self.ready = 0
        self.failures: list[StoreError] = []
        self.turns: list[Callable[[], None]] = []
        self.announced: list[list[Range]] = []
        self.log = IntentLog(
            SlotRing(self.store, LAYOUT),
            extent_bytes=65536,
            extents=21,
            limit=limit,
            settle=self.settling.append,
            ready=self.count,
            failed=self.failures.append,
            soon=self.turns.append,
            announce=self.announced.append,
        )

    def want(self, first: int, last: int) -> None:
        self.log.want(first, last)
        self.run()

    def run(self) -> None:
        """What the loop does when a burst is over."""
        while self.turns:
            self.turns.pop(0)()

    def count(self) -> None:
        self.ready += 1

    async def on_disk(self) -> set[int]:
        raw = await SlotRing(self.inner, LAYOUT).load()
        assert raw is not None
        return set(IntentRecord.decode(raw).extents)


async def test_an_extent_is_hot_only_once_the_log_says_so_on_disk() -> None:
    volume = Volume()
    volume.store.rules = [FaultRule("flush", "hold")]
    volume.want(3, 4)
    assert not volume.log.covers(3, 4)
    volume.store.release()
    assert volume.log.covers(3, 4)
    assert volume.ready == 1
    assert await volume.on_disk() == {3, 4}


async def test_an_extent_leaves_only_after_the_volume_has_settled() -> None:
    volume = Volume()
    volume.want(1, 2)
    settled = volume.settling.pop()
    volume.want(7, 7)
    assert await volume.on_disk() == {1, 2}, "on disk until what it covers is safe"
    assert volume.log.covers(1, 2), "and writes may go on meanwhile"
    volume.log.hot.pin(1)
    volume.log.hot.unpin(1)
    settled(None)
    assert volume.log.covers(7, 7)
    assert await volume.on_disk() == {1, 7}, "1 was written since: 2 has left"


async def test_extents_under_a_write_stay_and_the_wanted_ones_wait() -> None:
    volume = Volume()
    volume.want(1, 2)
    volume.settling.pop()(None)
    for extent in (1, 2):
        volume.log.hot.pin(extent)
    volume.want(9, 9)
    assert not volume.settling
    volume.log.hot.unpin(2)
    volume.log.turn()
    volume.run()
    volume.settling.pop()(None)
    assert volume.log.covers(1, 1)
    assert volume.log.covers(9, 9)
    assert await volume.on_disk() == {1, 9}


def test_a_settling_begins_before_the_last_clean_extent_is_gone() -> None:
    volume = Volume(limit=8)
    volume.want(0, 3)
    assert not volume.settling, "half is spare"
    volume.want(5, 5)
    volume.settling.pop()(None)
    volume.want(10, 10)
    assert not volume.settling, "five are clean"


def test_a_burst_of_writes_shares_one_commit() -> None:
    volume = Volume(limit=8)
    for extent in (3, 9, 5):
        volume.log.want(extent, extent)
    assert volume.inner.flushes == 0
    volume.run()
    assert volume.inner.flushes == 1
    assert all(volume.log.covers(extent, extent) for extent in (3, 9, 5))


def test_a_writer_from_one_end_to_the_other_meets_few_commits() -> None:
    volume = Volume(limit=16)
    for extent in range(1, 21):
        if not volume.log.covers(extent, extent):
            volume.want(extent, extent)
            for settled in volume.settling:
                settled(None)
            volume.settling.clear()
        volume.log.hot.pin(extent)
        volume.log.hot.unpin(extent)
    assert volume.inner.flushes <= 8, "one for three extents"
    assert not volume.log.covers(21, 21), "no extent lies beyond the end"


async def test_nothing_is_committed_after_the_clean_record() -> None:
    volume = Volume()
    outcome: list[StoreError | None] = []
    volume.log.want(3, 3)
    volume.log.close()
    volume.log.commit_clean(outcome.append)
    volume.run()
    assert outcome == [None]
    raw = await SlotRing(volume.inner, LAYOUT).load()
    assert raw is not None
    assert IntentRecord.decode(raw).clean


async def test_the_clean_record_comes_behind_a_commit_that_is_under_way() -> None:
    volume = Volume()
    volume.store.rules = [FaultRule("flush", "hold", times=1)]
    outcome: list[StoreError | None] = []
    volume.log.expect_writes(0, 65536)
    volume.run()
    volume.log.close()
    volume.log.commit_clean(outcome.append)
    assert outcome == []
    volume.store.release()
    assert outcome == [None]
    raw = await SlotRing(volume.inner, LAYOUT).load()
    assert raw is not None
    assert IntentRecord.decode(raw).clean
    assert volume.ready == 0, "nothing is hot in a log that is closed"


async def test_what_will_be_written_is_announced_when_its_commit_begins() -> None:
    volume = Volume(limit=8)
    volume.store.rules = [FaultRule("flush", "hold")]
    volume.want(3, 4)
    assert volume.announced == [[(3 * 65536, 65536), (4 * 65536, 65536)]]
    assert not volume.log.covers(3, 3)


async def test_an_announcement_makes_extents_hot_ahead_of_their_writes() -> None:
    volume = Volume(limit=8)
    volume.log.expect_writes(65535, 2)
    volume.run()
    assert volume.log.covers(0, 1)
    assert await volume.on_disk() == {0, 1}


def test_announcements_take_spare_room_only() -> None:
    volume = Volume(limit=4)
    volume.want(0, 2)
    volume.log.expect_writes(5 * 65536, 100 * 65536)
    volume.log.expect_writes(1 << 62, 1 << 62)
    volume.run()
    assert volume.log.covers(5, 5), "one place was left"
    assert not volume.log.covers(6, 6)
    assert volume.log.covers(0, 2), "and nothing left for it"
    volume.settling.pop()(None)
    volume.run()
    assert volume.log.covers(0, 2), "nor later: what found no room is not waited for"


def test_a_log_that_cannot_be_written_fails_its_volume() -> None:
    for rule in (FaultRule("write", "fail"), FaultRule("flush", "fail")):
        volume = Volume()
        volume.store.rules = [rule]
        volume.want(1, 1)
        assert len(volume.failures) == 1
        assert not volume.log.covers(1, 1)
    volume = Volume()
    volume.want(1, 2)
    volume.want(3, 3)
    assert volume.settling
    failure = StoreError(StoreFault.IO, "on purpose")
    volume.settling.pop()(failure)
    assert volume.failures == [failure]
    assert not volume.log.covers(3, 3)
    volume.want(4, 4)
    assert not volume.settling, "a log that has failed begins nothing"
    assert volume.inner.flushes == 1
