"""A write load whose commits are written down outside of the database.

Owns the numbers: which were begun, which the server has acknowledged. A number is one row, one
transaction, and they come in order, so what a restored database holds is judged by two numbers.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence

Statement = Callable[[int], str]
BEGIN_WITHIN_S = 20.0


class Ledger:
    """What was begun and what was acknowledged, in order."""

    def __init__(self) -> None:
        self.begun = 0
        self.acknowledged = 0
        self._grown = threading.Condition()

    def acknowledge(self, number: int) -> None:
        """The server said that this one is committed."""
        with self._grown:
            assert number == self.acknowledged + 1
            self.acknowledged = number
            self._grown.notify_all()

    def wait_for(self, number: int, within_s: float = BEGIN_WITHIN_S) -> None:
        """Wait until so many are acknowledged."""
        with self._grown:
            reached = self._grown.wait_for(lambda: self.acknowledged >= number, within_s)
            assert reached, f"{self.acknowledged} of {number} commits in {within_s} s"

    def judge(self, numbers: Sequence[int], at_least: int, at_most: int) -> None:
        """All that was acknowledged before the split is there, and nothing begun after it."""
        assert list(numbers) == list(range(1, len(numbers) + 1)), "a commit before another is lost"
        assert at_least <= len(numbers) <= at_most


class ClientLoad:
    """One session of a command-line client that commits one row after the other."""

    def __init__(self, argv: Sequence[str], statement: Statement) -> None:
        """`statement(n)` commits row n and makes the client say n on a line of its own."""
        self.ledger = Ledger()
        self._statement = statement
        self._stopping = threading.Event()
        self._client = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self._thread = threading.Thread(target=self._run, name="load")
        self._thread.start()

    def _run(self) -> None:
        stdin, stdout = self._client.stdin, self._client.stdout
        assert stdin is not None
        assert stdout is not None
        while not self._stopping.is_set():
            number = self.ledger.begun + 1
            self.ledger.begun = number
            stdin.write(self._statement(number) + "\n")
            line = stdout.readline().strip()
            if not line:
                return
            self.ledger.acknowledge(int(line))

    def stop(self) -> None:
        """End the session; the last commit may be without an answer."""
        self._stopping.set()
        deadline = time.monotonic() + BEGIN_WITHIN_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.1)
        self._client.kill()
        self._client.communicate()
        self._thread.join()
