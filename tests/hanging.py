"""Files whose disk hangs: reads that nothing has in memory, flushes and clones wait at a gate.

Owns the gate and who waits at it. Reads and flushes are chosen by the name of the file; all other
files stay as they are. What waits goes on when the `with` ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.volume.file import CLONE_RANGE, FICLONERANGE
from tests.rig import eventually


class Hanging:
    """Takes the place of the calls that wait for a disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names: tuple[str, ...] = ()
        self._gate = threading.Event()
        self._lock = threading.Lock()
        self._met: Counter[str] = Counter()
        preadv, fdatasync = os.preadv, os.fdatasync

        def slow_preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
            if self._hangs(fd):
                if flags & os.RWF_NOWAIT:
                    raise BlockingIOError(errno.EAGAIN, "not in the page cache")
                self._wait("preadv")
            return preadv(fd, buffers, offset, flags)

        def slow_fdatasync(fd: int) -> None:
            if self._hangs(fd):
                self._wait("fdatasync")
            fdatasync(fd)

        monkeypatch.setattr(os, "preadv", slow_preadv)
        monkeypatch.setattr(os, "fdatasync", slow_fdatasync)

    def _hangs(self, fd: int) -> bool:
        if not self._names:
            return False
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        return name.startswith(self._names)

    def _wait(self, call: str) -> None:
        with self._lock:
            self._met[call] += 1
        self._gate.wait()

    @contextmanager
    def files(self, *names: str) -> Iterator[None]:
        """Files whose names begin like this hang meanwhile."""
        self._gate.clear()
        self._met.clear()
        self._names = names
        try:
            yield
        finally:
            self._names = ()
            self._gate.set()

    async def met(self, call: str, times: int) -> None:
        """Wait until so many calls have come to the gate."""
        await eventually(lambda: self._met[call] >= times, lambda: f"met: {self._met}")


class Clones:
    """Takes the place of FICLONERANGE: every clone waits, and shares nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_loop = 0
        """Clones that were asked for by the loop itself: those don't wait."""
        self.sources: list[str] = []
        """The file that each was to be made of, by its descriptor's name when it went on."""
        self._gate = threading.Event()
        self._begun = 0
        self._error: OSError | None = None
        self._loop_thread = threading.get_ident()

        def ioctl(fd: int, request: int, argument: bytes) -> int:
            assert request == FICLONERANGE
            if threading.get_ident() == self._loop_thread:
                self.on_loop += 1
            else:
                self._begun += 1
                self._gate.wait()
            source_fd = CLONE_RANGE.unpack(argument)[0]
            self.sources.append(Path(f"/proc/self/fd/{source_fd}").readlink().name)
            if self._error is not None:
                raise self._error
            return 0

        monkeypatch.setattr(fcntl, "ioctl", ioctl)

    async def begun(self, times: int) -> None:
        """Wait until so many have come to the gate."""
        await eventually(lambda: self._begun >= times, lambda: f"{self._begun} clones")

    def let_go(self, error: OSError | None = None) -> None:
        """Let them go on, or fail."""
        self._error = error
        self._gate.set()
