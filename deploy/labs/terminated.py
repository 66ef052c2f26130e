"""A program that is told to end takes away what it has started.

Owns the handlers of SIGTERM and SIGHUP while a block runs. Fails with `TerminatedError` out of
whatever the block does; a second signal doesn't disturb what the first has set going.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGHUP)


class TerminatedError(KeyboardInterrupt):
    """The program is to end: like Ctrl-C, so that a test run stops as well, and cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def unwound() -> Iterator[None]:
    """Have signals that end the program unwind this block first; in other threads as it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise TerminatedError(number)

    before = {each: signal.signal(each, end) for each in ENDING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
