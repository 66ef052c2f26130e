"""Load on a host, and the judgement that nothing flushed was lost: `ledger.py` from outside.

Owns the record of what each flush covered. It is kept here, outside of the hosts, so it outlives
any plug.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.labs.channel import Call
from deploy.labs.host import Host
from deploy.labs.problem import HostGoneError

PROGRAM = Path(__file__).with_name("ledger.py").read_text(encoding="utf-8")
"""Handed over as text: a host has a /tmp of its own, where the checkout may lie here."""
BLOCKS = 2048
PROGRESS_WITHIN_S = 180.0
UNHEARD = 1 << 16
"""Versions that an earlier start may have written and not told: skipped by the next one."""


@dataclass
class Load:
    """Verified writes to one file or disk; `start` may be called again after `stop`."""

    host: Host
    path: str
    blocks: int = BLOCKS
    run: int = field(default_factory=lambda: random.getrandbits(32))
    flushed: dict[int, int] = field(default_factory=dict)
    flushes: int = 0
    errors: list[str] = field(default_factory=list)
    _call: Call | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        first = max(self.flushed.values(), default=0) + UNHEARD
        numbers = (str(self.blocks), str(self.run), str(first))
        self._call = self.host.channel.start(
            "python3", "-IS", "-c", PROGRAM, "write", self.path, *numbers
        )
        self._thread = threading.Thread(target=self._follow, args=(self._call,))
        self._thread.start()
        self.go_on()

    def _follow(self, call: Call) -> None:
        try:
            while call.step(0.5) is None:
                *lines, rest = call.stdout.split(b"\n")
                call.stdout[:] = rest
                for line in lines:
                    self._note(line.decode())
        except (HostGoneError, OSError, ValueError):
            return  # stopped, or the host's plug was pulled: what was noted counts

    def _note(self, line: str) -> None:
        if line.startswith("error"):
            self.errors.append(line)
            return
        self.flushes += 1
        for entry in line.split():
            place, version = entry.split(":")
            self.flushed[int(place)] = int(version)

    def go_on(self, flushes: int = 20) -> None:
        """Wait until so many more flushes were answered."""
        wanted, deadline_s = self.flushes + flushes, time.monotonic() + PROGRESS_WITHIN_S
        while self.flushes < wanted:
            assert self._thread is not None
            assert self._thread.is_alive(), self._said()
            assert time.monotonic() < deadline_s, f"no progress; errors: {self.errors[-3:]}"
            time.sleep(0.05)

    def _said(self) -> str:
        said = self._call.stderr.decode() if self._call else ""
        return f"the load ended: {said[-500:]}"

    def stop(self) -> None:
        """End it where it stands. A host without power is no hindrance."""
        if self._thread is None or self._call is None:
            return
        self._call.hang_up()
        self._thread.join()
        self._call = self._thread = None

    def check(self) -> None:
        """Everything that a flush covered is there, in that version or a later one."""
        ran = self.host.run(
            *("python3", "-IS", "-c", PROGRAM, "read", self.path, str(self.blocks), str(self.run)),
            timeout_s=120,
        )
        found = dict(line.split(":") for line in ran.text.split())
        assert len(found) == self.blocks
        lost = {
            place: (version, found[str(place)])
            for place, version in self.flushed.items()
            if found[str(place)] == "torn" or int(found[str(place)]) < version
        }
        assert not lost, f"{len(lost)} of {len(self.flushed)}: {dict(list(lost.items())[:5])}"
        assert self.flushed
