"""A device's last flush before it is detached.

Owns what a failed one means. Must not retry it: a second fsync says nothing of what was lost.
Fails with UnflushedError. Blocks.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from hostagent.errors import UnflushedError

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def flush(device: Path, *, abandon: bool) -> None:
    """Write all that is cached to the LUN, durably; with `abandon` a failure is only noted."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as exc:
        if not abandon:
            raise UnflushedError(device.name, os.strerror(exc.errno or 0)) from exc
        _log.warning("the last writes are lost", device=device.name, why=exc.strerror)
    finally:
        os.close(fd)
