"""When a failed step is tried again, and when it is given up.

Pure: the table of which errors pass by themselves, and the waits between attempts. Owns the
bounds: nothing is retried for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.codes import Code

TRANSIENT = frozenset({Code.UNREACHABLE, Code.TIMEOUT, Code.EXPIRED, Code.BUSY, Code.NO_PEER})
"""Nobody refused: the answer didn't come, or the link is away for now."""

UNANSWERED = frozenset({Code.UNREACHABLE, Code.TIMEOUT, Code.EXPIRED, Code.BUSY})
"""The request may have been carried out, or never began: asking again is the same request."""

FIRST_WAIT_S = 0.25
MAX_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on: seconds for what passes by itself, attempts for everything else."""

    transient_for_s: float
    other_attempts: int

    def again(self, code: Code, since_s: float, refused: int) -> bool:
        """Whether to try once more, `since_s` after the first failure, `refused` times for good."""
        if code in TRANSIENT:
            return since_s < self.transient_for_s
        return refused < self.other_attempts


CAREFUL = RetryPolicy(transient_for_s=60.0, other_attempts=1)
"""Before anything irreversible: give up soon, and undo."""
INSISTENT = RetryPolicy(transient_for_s=3600.0, other_attempts=8)
"""When only forward is possible, and for undoing."""


def wait_s(attempts: int) -> float:
    """Seconds before the next attempt: doubling, capped."""
    return min(MAX_WAIT_S, FIRST_WAIT_S * float(1 << min(attempts, 10)))
