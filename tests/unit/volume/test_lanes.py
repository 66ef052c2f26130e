"""Which call of which store has a thread."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from controller.volume.lanes import Lane, Lanes

pytestmark = pytest.mark.plain

SPARE = 14


def entered(lanes: Lanes[int], lane: Lane[int], calls: int) -> int:
    """How many of these calls run at once."""
    return sum(lanes.enter(lane, number) for number in range(calls))


def test_a_lane_alone_has_its_own_thread_and_half_of_the_stock() -> None:
    assert entered(Lanes(SPARE), Lane(), 100) == 1 + SPARE // 2


def test_lanes_that_hang_take_nothing_from_the_next() -> None:
    lanes: Lanes[int] = Lanes(SPARE)
    got = [entered(lanes, Lane(), 100) for _ in range(50)]
    assert got[:3] == [8, 5, 3], "something is left for whoever comes next"
    assert min(got) == 1, "a thread of its own, however many hang"
    assert sum(got) <= len(got) + SPARE


def test_calls_of_a_lane_keep_their_order() -> None:
    lanes: Lanes[int] = Lanes(0)
    lane: Lane[int] = Lane()
    assert entered(lanes, lane, 4) == 1
    for number in (1, 2, 3):
        assert lanes.leave(lane) == (lane, number)
    assert lanes.leave(lane) is None


def test_who_runs_least_goes_first() -> None:
    lanes: Lanes[int] = Lanes(SPARE)
    early, late = Lane[int](), Lane[int]()
    assert (entered(lanes, early, 30), entered(lanes, late, 30)) == (8, 5)
    followed = [lanes.leave(early) for _ in range(4)]
    assert [each and each[0] for each in followed] == [None, late, early, early]
    assert early.running == late.running == 6


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_who_might_run_and_all_calls_come(seed: int) -> None:
    rng = Random(seed)
    spare = rng.choice((0, 1, 2, 5, 14))
    lanes: Lanes[int] = Lanes(spare)
    every: list[Lane[int]] = [Lane() for _ in range(rng.randint(1, 6))]
    due = {lane: deque[int]() for lane in every}
    """What was put in and has not begun, in order."""
    running: list[Lane[int]] = []
    number = 0
    for step in range(2000):
        if step < 1000 and rng.random() < 0.5:
            lane = rng.choice(every)
            number += 1
            if lanes.enter(lane, number):
                assert not due[lane]
                running.append(lane)
            else:
                due[lane].append(number)
        elif running:
            ended = running.pop(rng.randrange(len(running)))
            following = lanes.leave(ended)
            if following is not None:
                lane, call = following
                assert call == due[lane].popleft()
                running.append(lane)
        beyond = [max(0, lane.running - 1) for lane in every]
        assert sum(beyond) <= spare
        for lane in every:
            assert lane.running == running.count(lane)
            if due[lane]:
                assert lane.running, "it has a thread of its own"
                assert lane.running - 1 >= spare - sum(beyond), "it might run"
    assert not running
    assert not any(due.values())
