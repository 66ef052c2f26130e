"""Freezing a file system for a moment, so that what is on the volume is complete.

Owns FIFREEZE and FITHAW and the guard that thaws when the time is up or the agent is gone. Must
not write to the file system while it is frozen. Fails with HostError. Blocks: freezing writes
out everything that is dirty first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

from hostagent.errors import HostError
from hostagent.filesystem import guard as guard_program
from hostagent.programs import need_program, run_program

FIFREEZE = 0xC0045877  # _IOWR('X', 119, int), linux/fs.h
GUARD_START_TIMEOUT_S = 10.0
WRITE_OUT_TIMEOUT_S = 240.0


class Freeze:
    """One freeze, from `Freeze.begin` to `end`."""

    def __init__(self, mountpoint: Path, guard: subprocess.Popen[bytes]) -> None:
        self._mountpoint = mountpoint
        self._guard = guard
        self._frozen_at_s = 0.0

    @classmethod
    def begin(cls, mountpoint: Path, ttl_s: float) -> Freeze:
        """Start the guard, then freeze; raises HostError (frozen already, not supported)."""
        freeze = cls(mountpoint, _start_guard(mountpoint, ttl_s))
        try:
            _ioctl(mountpoint, FIFREEZE)
        except OSError as exc:
            freeze._dismiss()
            if exc.errno == errno.EBUSY:
                raise HostError(
                    f"{mountpoint} is frozen by somebody else", f"run `fsfreeze -u {mountpoint}`"
                ) from exc
            raise _not_frozen(mountpoint, exc) from exc
        freeze._frozen_at_s = time.monotonic()
        return freeze

    @property
    def holds(self) -> bool:
        """Whether it is still frozen: the guard hasn't thawed it."""
        return self._guard.poll() is None

    def lasts(self) -> bool:
        """Whether it has been frozen until now, whoever may have thawed it. Raises HostError.

        The kernel shows that to nobody: a second freeze tells, which a frozen file system refuses.
        """
        if not self.holds:
            return False
        try:
            _ioctl(self._mountpoint, FIFREEZE)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                return True
            raise _not_frozen(self._mountpoint, exc) from exc
        thaw(self._mountpoint)
        return False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the freeze."""
        return time.monotonic() - self._frozen_at_s

    def end(self) -> float:
        """Thaw and let the guard go; returns how long it was frozen, in seconds.

        Somebody may have thawed it since it was looked at: what it was for is over then.
        """
        thaw(self._mountpoint)
        elapsed_s = self.elapsed_s
        self._dismiss()
        return elapsed_s

    def _dismiss(self) -> None:
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdin.close()
        self._guard.stdout.close()
        self._guard.wait()


def _not_frozen(mountpoint: Path, exc: OSError) -> HostError:
    return HostError(
        f"{mountpoint} can't be frozen: {exc.strerror}",
        "take the backup without quiescing, and stop the application instead",
    )


def write_out(mountpoint: Path) -> None:
    """syncfs(2): what a freeze would have to write first, while everybody still may write."""
    argv = [need_program("sync", "coreutils"), "-f", str(mountpoint)]
    run_program(argv, timeout_s=WRITE_OUT_TIMEOUT_S)


def thaw(mountpoint: Path) -> bool:
    """Thaw; False when it wasn't frozen. Raises HostError."""
    try:
        _ioctl(mountpoint, guard_program.FITHAW)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return False
        raise HostError(
            f"{mountpoint} can't be thawed: {exc.strerror}", f"run `fsfreeze -u {mountpoint}`"
        ) from exc
    return True


def _ioctl(mountpoint: Path, request: int) -> None:
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, 0)
    finally:
        os.close(fd)


def _program(module: ModuleType) -> str:
    assert module.__file__ is not None
    return module.__file__


def _start_guard(mountpoint: Path, ttl_s: float) -> subprocess.Popen[bytes]:
    guard = subprocess.Popen(  # noqa: S603 - no shell, and argv is ours
        [sys.executable, "-I", "-S", _program(guard_program), str(mountpoint), str(ttl_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdout is not None
    # select(2) knows no descriptor beyond 1,023.
    said = select.poll()
    said.register(guard.stdout, select.POLLIN)
    if not said.poll(GUARD_START_TIMEOUT_S * 1e3) or guard.stdout.read(1) != b"r":
        guard.kill()
        guard.communicate()
        raise HostError(f"the guard for {mountpoint} did not start", "nothing was frozen")
    return guard
