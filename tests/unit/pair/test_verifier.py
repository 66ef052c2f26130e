"""A verify over a channel of the test's: what it asks, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from controller.api.messages import VerifyState
from controller.link.channel import Inquiry
from controller.pair.comparing import Comparer
from controller.pair.verifier import COUNTED_RANGES, SHOWN_RANGES, TRIES, Verifier
from controller.volume.bitmap import DirtyBitmap
from controller.volume.store import StoreError, StoreFault
from tests.unit.pair.slow import BLOCK, QuietVolume


class Clock:
    """Stands still; runs what is due when the test says so."""

    def __init__(self) -> None:
        self.at_s = 10.0
        self.timers: list[Callable[[], None]] = []

    def now_s(self) -> float:
        return self.at_s

    def later(self, delay_s: float, run: Callable[[], None]) -> Callable[[], None]:
        self.at_s += delay_s
        self.timers.append(run)
        return lambda: self.timers.remove(run) if run in self.timers else None

    def run(self) -> None:
        while self.timers:
            self.timers.pop(0)()


class Way:
    """A channel to another volume, which may refuse to tell."""

    def __init__(
        self, there: QuietVolume, untold: Callable[[int], bool] = lambda _n: False
    ) -> None:
        self.comparer = Comparer(there)  # type: ignore[arg-type]
        self.untold = untold
        self.asked: list[tuple[int, int, bool]] = []
        self.held: list[Inquiry] = []
        self.hold = False

    def compare(
        self, offset_bytes: int, length_bytes: int, digests: bytes, inquiry: Inquiry, *, copy: bool
    ) -> None:
        assert not copy
        self.asked.append((offset_bytes // BLOCK, length_bytes // BLOCK, bool(digests)))
        if self.hold:
            self.held.append(inquiry)
        elif self.untold(len(self.asked)):
            inquiry.compared(None)
        else:
            self.comparer.compare(offset_bytes, length_bytes, digests, inquiry.compared)


def verifier(
    here: bytearray, there: bytearray, *, rate: int | None = None, repair: bool = False
) -> tuple[Verifier, Way, Clock, list[str]]:
    mine, theirs = QuietVolume(here), QuietVolume(there)
    mine.store.at_once = theirs.store.at_once = True
    way, clock, told = Way(theirs), Clock(), list[str]()
    run = Verifier(
        mine,  # type: ignore[arg-type]
        DirtyBitmap(len(here) // BLOCK),
        way,  # type: ignore[arg-type]
        clock,
        rate,
        lambda: told.append("over"),
        repair=repair,
    )
    return run, way, clock, told


def finish(run: Verifier, clock: Clock, told: list[str]) -> None:
    run.pump()
    clock.run()
    assert told == ["over"]
    assert run.running, "it is for the owner to conclude it"
    run.conclude()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=300))
def test_exactly_what_differs_is_found(blocks: list[tuple[int, int]]) -> None:
    here, there = (bytearray(b"".join(bytes([b[n]]) * BLOCK for b in blocks)) for n in (0, 1))
    run, _, clock, told = verifier(here, there)
    finish(run, clock, told)
    found = [number for first, count in run.found.runs() for number in range(first, first + count)]
    assert found == [number for number, (one, other) in enumerate(blocks) if one != other]
    info = run.info()
    assert info.state is VerifyState.ENDED
    assert sum(each.length_bytes for each in info.ranges) == info.differing_bytes
    assert info.differing_bytes == len(found) * BLOCK
    assert info.compared_bytes == len(here)
    for one, other in zip(info.ranges, info.ranges[1:], strict=False):
        assert one.offset_bytes + one.length_bytes < other.offset_bytes


def test_a_long_hole_with_data_on_the_other_side_is_narrowed_down() -> None:
    here, there = bytearray(1000 * BLOCK), bytearray(1000 * BLOCK)
    there[777 * BLOCK] = 1
    run, way, clock, told = verifier(here, there)
    finish(run, clock, told)
    assert list(run.found.runs()) == [(777, 1)]
    assert way.asked[0] == (0, 1000, False)
    in_detail = [asked for asked in way.asked if asked[2]]
    assert sum(count for _, count, _ in in_detail) <= 64


def test_a_hole_that_was_written_meanwhile_is_not_asked_for_as_a_hole() -> None:
    here, there = bytearray(1000 * BLOCK), bytearray(1000 * BLOCK)
    there[777 * BLOCK] = 1
    run, way, clock, _ = verifier(here, there)
    way.hold = True
    run.pump()
    (whole,) = way.held
    # A host writes, and the other side's disk loses it.
    here[10 * BLOCK] = 1
    way.hold = False
    whole.compared(None)
    clock.run()
    assert list(run.found.runs()) == [(10, 1), (777, 1)]


def test_a_range_over_a_page_of_the_bitmap_is_one_range() -> None:
    blocks = 32_256 + 64
    here, there = bytearray(blocks * BLOCK), bytearray(blocks * BLOCK)
    for at in range(32_250, 32_262):
        there[at * BLOCK] = 1
    run, _, clock, told = verifier(here, there)
    finish(run, clock, told)
    (only,) = run.info().ranges
    assert (only.offset_bytes, only.length_bytes) == (32_250 * BLOCK, 12 * BLOCK)


def test_a_volume_that_differs_everywhere_is_counted_up_to_a_bound() -> None:
    blocks = 2 * COUNTED_RANGES + 10
    here, there = bytearray(blocks * BLOCK), bytearray(blocks * BLOCK)
    for at in range(0, blocks, 2):
        there[at * BLOCK] = 1
    run, _, clock, told = verifier(here, there)
    finish(run, clock, told)
    info = run.info()
    assert info.differing_bytes == blocks // 2 * BLOCK
    assert (len(info.ranges), info.range_count) == (SHOWN_RANGES, COUNTED_RANGES)


def test_what_cannot_be_told_is_asked_again_and_in_the_end_counted_as_busy() -> None:
    here = bytearray(b"h" * 4 * BLOCK)
    run, way, clock, told = verifier(here, bytearray(here))
    way.untold = lambda number: number < 5
    finish(run, clock, told)
    assert (run.info().busy_bytes, run.info().differing_bytes) == (0, 0)
    run, way, clock, told = verifier(here, bytearray(here))
    way.untold = lambda _number: True
    finish(run, clock, told)
    assert len(way.asked) == TRIES
    assert run.info().busy_bytes == 4 * BLOCK
    assert run.info().compared_bytes == 0


def test_a_source_that_cannot_be_read_stops_it() -> None:
    run, _, _, told = verifier(bytearray(b"h" * BLOCK), bytearray(BLOCK))
    store = run._store
    store.at_once = False  # type: ignore[attr-defined]
    run.pump()
    assert run.info().progress is not None
    store.end_read(StoreError(StoreFault.IO, "no disk"))  # type: ignore[attr-defined]
    assert told == ["over"]
    run.conclude()
    assert run.info().state is VerifyState.STOPPED
    assert "no disk" in run.info().reason


def test_a_cut_stops_it_once_and_late_answers_mean_nothing() -> None:
    run, way, _, told = verifier(bytearray(b"h" * BLOCK), bytearray(BLOCK))
    way.hold = True
    run.pump()
    (inquiry,) = way.held
    inquiry.lost()
    inquiry.lost()
    inquiry.compared(1)
    run.pump()
    assert told == ["over"]
    assert not len(run.found)
    run.conclude()
    assert run.info().reason == "the link broke"


def test_a_rate_limit_is_kept() -> None:
    data = bytearray(b"h" * 1024 * BLOCK)
    run, _, clock, told = verifier(data, bytearray(data), rate=1 << 20)
    finish(run, clock, told)
    assert clock.at_s - 10 > 4 - 0.2 - 0.25


def test_a_repair_is_shown_until_it_is_copied() -> None:
    run, _, clock, told = verifier(bytearray(b"h" * BLOCK), bytearray(BLOCK), repair=True)
    run.pump()
    clock.run()
    run.repairing()
    run.conclude()
    assert run.info().state is VerifyState.REPAIRING
    run.copied()
    run.copied()
    assert run.info().state is VerifyState.ENDED
    assert run.info().repaired
    run.stop("late")
    run.conclude()
    assert run.info().state is VerifyState.ENDED
    assert told == ["over"]
