"""How long a room stays open."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from controller.api.errors import RejectedError
from hostagent.looking.marks import Marks
from hostagent.looking.rooms import IDLE_S, Room, Rooms
from tests.unit.hostagent.world import FakeClock

MARKS = Marks("c1", "rp", "c2", "lp", "view-1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rooms(clock: FakeClock) -> Rooms:
    return Rooms(clock)


@pytest.fixture
def room(rooms: Rooms) -> Room:
    return rooms.open("look-1", "ds", PurePosixPath("/srv"), "h1", Path("/run/view"), MARKS)


def test_it_closes_when_nobody_comes(rooms: Rooms, room: Room, clock: FakeClock) -> None:
    clock.now_s += IDLE_S - 1
    assert rooms.left_s(room) == 1
    clock.now_s += 5
    assert rooms.left_s(room) == 0


def test_a_visitor_keeps_it_open_however_long_it_takes(
    rooms: Rooms, room: Room, clock: FakeClock
) -> None:
    with rooms.visit("look-1"):
        clock.now_s += 10 * IDLE_S
        assert rooms.left_s(room) > 0
    assert rooms.left_s(room) == IDLE_S, "and the time begins anew"


def test_it_closes_on_demand_once_everybody_is_out(rooms: Rooms, room: Room) -> None:
    with rooms.visit("look-1"):
        assert rooms.close("look-1")
        assert rooms.left_s(room) > 0
    assert rooms.left_s(room) == 0
    with pytest.raises(RejectedError), rooms.visit("look-1"):
        pass


def test_what_is_not_open_can_not_be_closed_or_visited(rooms: Rooms, room: Room) -> None:
    rooms.drop("look-1")
    assert not rooms.close("look-1")
    with pytest.raises(RejectedError, match="no backup open"), rooms.visit("look-1"):
        pass
