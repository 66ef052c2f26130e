"""The rate cap and the meter, on a clock of the test's."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.pair.pace import Meter, RateCap

MIB = 1 << 20


@given(
    st.integers(64 << 10, 1 << 30),
    st.lists(st.tuples(st.integers(1, MIB), st.floats(0, 0.5)), min_size=1, max_size=60),
)
def test_no_window_of_time_gets_more_than_rate_and_burst(
    rate: int, pieces: list[tuple[int, float]]
) -> None:
    now_s = 100.0
    cap = RateCap(rate, now_s)
    sent: list[tuple[float, int]] = []
    for size, pause_s in pieces:
        now_s += pause_s
        delay_s = cap.delay_s(now_s)
        assert delay_s >= 0
        now_s += delay_s
        assert cap.delay_s(now_s) == 0, "after the wait it may go, however the clock rounds"
        cap.spent(size)
        sent.append((now_s, size))
    for first in range(len(sent)):
        total = 0
        for at_s, size in sent[first:]:
            window_s = at_s - sent[first][0]
            assert total <= rate * (window_s + 0.1) + MIB + 1
            total += size


def test_no_cap_never_waits() -> None:
    cap = RateCap(None, 0.0)
    for _ in range(9):
        cap.spent(1 << 40)
        assert cap.delay_s(0.0) == 0


def test_a_cap_is_used_up_to_its_rate() -> None:
    cap = RateCap(10 * MIB, 0.0)
    now_s, done = 0.0, 0
    while now_s < 10:
        now_s += cap.delay_s(now_s)
        cap.spent(MIB // 4)
        done += MIB // 4
    assert done == pytest.approx(100 * MIB, rel=0.05)


@example(MIB, 563565, 30.6)
@given(st.integers(1 << 20, 1 << 30), st.integers(1, 4 * MIB), st.floats(0, 1e6))
def test_whoever_waits_as_told_may_go(rate: int, size: int, began_s: float) -> None:
    """Also where what is left of the wait is too short for the clock to show."""
    cap = RateCap(rate, began_s)
    cap.spent(size)
    now_s, waits = began_s, 0
    while (delay_s := cap.delay_s(now_s)) > 0:
        now_s, waits = now_s + delay_s, waits + 1
        assert waits < 10


def test_the_meter_finds_a_steady_rate_and_an_end() -> None:
    meter = Meter(0.0)
    assert meter.rate_bytes_per_s == 0
    assert meter.eta_s(1) is None
    assert meter.eta_s(0) == 0
    for tick in range(1, 200):
        meter.add(MIB, tick * 0.05)
    assert meter.rate_bytes_per_s == pytest.approx(20 * MIB, rel=0.01)
    assert meter.eta_s(100 * MIB) == pytest.approx(5, rel=0.01)


def test_the_meter_forgets_half_in_a_half_life() -> None:
    meter = Meter(0.0, half_life_s=2.0)
    meter.add(1000, 1.0)
    meter.add(0, 3.0)
    assert meter.rate_bytes_per_s == pytest.approx(500)
