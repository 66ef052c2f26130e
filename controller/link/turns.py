"""The flushes of the copies that come over one link take turns.

Owns which of them is under way. A disk divides itself by what is asked of it at once, so a peer
with many pairs would get as many parts of it; with one flush a link under way, each link gets one
part. A turn ends with its flush, or after `TURN_S`: a disk that hangs must not stop the copies to
others. Must not see hosts' flushes: those wait for nobody. Pure: the timer is handed in. Closed
with its connection; what waited then never begins, for nobody would hear of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

TURN_S = 10.0

Later = Callable[[float, Callable[[], None]], Callable[[], None]]
"""Call something after so many seconds; returns what cancels that."""
Applied = Callable[[str], None]
"""Called when a flush has ended, with why it failed or an empty text."""


class _Turn:
    """One flush's time to be the only one."""

    __slots__ = ("_applied", "_cancel", "_over", "_turns")

    def __init__(self, turns: Turns, later: Later, applied: Applied) -> None:
        self._turns = turns
        self._applied = applied
        self._over = False
        self._cancel = later(TURN_S, self._end)

    def applied(self, failure: str) -> None:
        """The flush has ended, in its turn or behind it."""
        self._applied(failure)
        self._cancel()
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._turns.advance()


class Turns:
    """The turns of one link."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Later, Callable[[Applied], None], Applied]] = deque()
        self._busy = False

    def take(self, later: Later, flush: Callable[[Applied], None], applied: Applied) -> None:
        """Call `flush` in its turn, at once where no other is under way."""
        self._waiting.append((later, flush, applied))
        if not self._busy:
            self.advance()

    def advance(self) -> None:
        """A turn is over: begin the next."""
        self._busy = bool(self._waiting)
        if self._waiting:
            later, flush, applied = self._waiting.popleft()
            flush(_Turn(self, later, applied).applied)

    def close(self) -> None:
        """The link is gone: what waits is for nobody."""
        self._waiting.clear()
