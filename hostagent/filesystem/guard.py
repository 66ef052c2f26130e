"""The guard: a tiny program that thaws a file system when nobody else does.

Owns one frozen mount. It is started before the freeze, by its path, with nothing of ours
imported, and holds the folder open, because looking a path up on a frozen file system could
wait. It thaws when its time is up, and when its input ends: that is the agent letting go, or
dying. A freeze that is only just happening can't be thawed yet, so it tries again until the
input ends. Exit codes: 0 nothing was left to thaw, 3 it thawed because the time was up, 4
because the agent was gone.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time

FITHAW = 0xC0045878  # _IOWR('X', 120, int), linux/fs.h
EXPIRED = 3
ORPHANED = 4
_RETRY_S = 0.1


def main() -> int:
    """Run as `guard.py MOUNTPOINT TTL_S`; writes one byte when ready."""
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + float(sys.argv[2])
    os.write(1, b"r")
    while True:
        left_s = deadline - time.monotonic()
        ended = bool(select.select([0], [], [], left_s if left_s > 0 else _RETRY_S)[0])
        if ended or left_s <= 0:
            thawed = _thaw(fd)
            if thawed:
                return ORPHANED if ended else EXPIRED
            if ended:
                return 0


def _thaw(fd: int) -> bool:
    try:
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError:
        # EINVAL: it isn't frozen (any more, or yet).
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
