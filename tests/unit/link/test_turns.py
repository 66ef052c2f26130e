"""One flush of a link's copies at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.link.turns import TURN_S, Applied, Turns

pytestmark = pytest.mark.plain


class Disk:
    """Flushes that end when they are told to, and the timers that were set."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.under_way: dict[str, Applied] = {}
        self.begun: list[str] = []
        self.answers: list[tuple[str, str]] = []
        self.timers: list[Callable[[], None]] = []

    def later(self, delay_s: float, run: Callable[[], None]) -> Callable[[], None]:
        assert delay_s == TURN_S
        self.timers.append(run)
        return lambda: self.timers.remove(run)

    def flush(self, name: str) -> None:
        def begin(applied: Applied) -> None:
            self.begun.append(name)
            self.under_way[name] = applied

        self.turns.take(self.later, begin, lambda failure: self.answers.append((name, failure)))

    def end(self, name: str, failure: str = "") -> None:
        self.under_way.pop(name)(failure)


def test_one_is_under_way_and_the_others_follow_in_order() -> None:
    disk = Disk()
    for name in "abc":
        disk.flush(name)
    assert disk.begun == ["a"]
    disk.end("a")
    assert disk.begun == ["a", "b"]
    disk.flush("d")
    disk.end("b", "no space")
    disk.end("c")
    disk.end("d")
    assert disk.begun == ["a", "b", "c", "d"]
    assert disk.answers == [("a", ""), ("b", "no space"), ("c", ""), ("d", "")]
    assert not disk.timers
    disk.flush("e")
    assert disk.begun[-1] == "e", "at once again"


def test_one_that_hangs_loses_its_turn_only() -> None:
    disk = Disk()
    for name in "abc":
        disk.flush(name)
    disk.timers.pop()()
    assert disk.begun == ["a", "b"]
    assert list(disk.under_way) == ["a", "b"]
    disk.under_way.pop("b")("")
    assert disk.begun == ["a", "b", "c"]


def test_the_end_of_one_behind_its_turn_is_nobodys_turn() -> None:
    disk = Disk()
    for name in "abc":
        disk.flush(name)
    hung = disk.timers[0]
    hung()
    disk.end("a")
    assert disk.begun == ["a", "b"], "b's turn is not over"
    assert disk.answers == [("a", "")]


def test_flushes_that_end_at_once_take_turns_too() -> None:
    turns, ended = Turns(), list[str]()
    for name in ("a", "b"):
        turns.take(lambda _s, _run: lambda: None, lambda applied: applied(""), ended.append)
        assert len(ended) == "ab".index(name) + 1


def test_what_waits_when_the_link_goes_never_begins() -> None:
    disk = Disk()
    for name in "ab":
        disk.flush(name)
    disk.turns.close()
    disk.end("a")
    assert disk.begun == ["a"]
