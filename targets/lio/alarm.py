"""A timer of the kernel's that is waited for as a descriptor: timerfd_create(2).

Owns one descriptor. A shell. Must not know what the time is for. Fails with OSError.

By the C library: Python has these calls from 3.13 on.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
import time

_libc = ctypes.CDLL(None, use_errno=True)
_libc.timerfd_create.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]

_SPECIFICATION = struct.Struct("@llll")
"""struct itimerspec: interval and value, seconds and nanoseconds each."""
_NS_PER_S = 1_000_000_000


class Alarm:
    """Readable once a while after `ring_in`; with an edge each time, unless it is read."""

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        self._check(self.fd)

    def ring_in(self, wait_s: float) -> None:
        """Ring in `wait_s` (more than 0), never earlier; what was set before doesn't ring."""
        seconds, nanoseconds = divmod(math.ceil(wait_s * _NS_PER_S), _NS_PER_S)
        wanted = _SPECIFICATION.pack(0, 0, seconds, nanoseconds)
        self._check(_libc.timerfd_settime(self.fd, 0, wanted, None))

    @staticmethod
    def _check(result: int) -> None:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
