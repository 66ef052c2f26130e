"""A file system that can't be written any more because its disk has lost what it was told to keep.

Owns how that is recognized, and what is done about it: behind a power loss of the controller
every write and flush of a host fails until the host has looked at the disk anew, which is a
mount anew for us. Must not mount anything. Never fails.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from controller.api.errors import RejectedError
from hostagent.errors import FinalError

_ERRNOS = (errno.EIO, errno.EREMOTEIO, errno.EROFS)
"""What writers get from the disk, and from a file system that has stopped for it."""
_WORDS = tuple(os.strerror(number) for number in _ERRNOS)
"""As programs say it; they run with the C locale."""


def as_stopped(exc: RejectedError | OSError, mountpoint: Path, node: str) -> FinalError | None:
    """That error, with mounting anew as its next step; None where it is of another kind."""
    if isinstance(exc, OSError):
        stopped, problem = exc.errno in _ERRNOS, str(exc)
    else:
        stopped, problem = any(word in exc.message for word in _WORDS), exc.message
    if not stopped:
        return None
    return FinalError(
        f"the file system at {mountpoint} has stopped: {problem}",
        f"mount it anew on {node}: `systemctl restart trilun-agent@{node}`, with nothing in use "
        "there; then give the command again (docs/operating.md#after-a-power-loss)",
    )
