"""Which calls run in threads now, and which wait: one slow store must not hold up the others.

Owns the counts and the waiting calls of every lane; a store has a lane of its own. A lane always
has one thread to itself, whatever the others do, so that a store whose disk hangs takes nothing
from another. What it runs beyond that comes out of a common stock, at most as much as it leaves
there: the first takes half of the stock, and there is always something left for the next. Pure;
not thread-safe.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Call = TypeVar("Call")


class Lane(Generic[Call]):
    """One store's calls, in their order."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[Call] = deque()


def _running(lane: Lane[Call]) -> int:
    return lane.running


class Lanes(Generic[Call]):
    """All lanes, and the stock of threads beyond each one's own."""

    def __init__(self, spare: int) -> None:
        self._left = spare
        self._waiting: dict[Lane[Call], None] = {}
        """Lanes with calls that wait, in the order in which they get their turn."""

    def enter(self, lane: Lane[Call], call: Call) -> bool:
        """Whether a call may run now; else it waits, and some `leave` gives it."""
        if not lane.waiting and self._admits(lane):
            self._begin(lane)
            return True
        lane.waiting.append(call)
        self._waiting[lane] = None
        return False

    def leave(self, lane: Lane[Call]) -> tuple[Lane[Call], Call] | None:
        """A call has ended: what may run in its place, of this lane or another.

        There is never more than one: the stock has one thread more than what every lane that
        waits was refused for. Who runs least goes first, so that equal needs get equal parts.
        """
        lane.running -= 1
        if lane.running:
            self._left += 1
        following = min(self._waiting, key=_running, default=None)
        if following is None or not self._admits(following):
            return None
        del self._waiting[following]
        call = following.waiting.popleft()
        if following.waiting:
            self._waiting[following] = None
        self._begin(following)
        return following, call

    def _admits(self, lane: Lane[Call]) -> bool:
        return not lane.running or lane.running - 1 < self._left

    def _begin(self, lane: Lane[Call]) -> None:
        if lane.running:
            self._left -= 1
        lane.running += 1
