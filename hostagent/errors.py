"""What can go wrong on a host, each with a sentence and a next step.

Owns the agent's error classes. All are `RejectedError`s, so that whatever ends a command ends a
job with the same code, message and next step. Must not decide what is done about an error.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from controller.api.codes import Code
from controller.api.errors import RejectedError

MAX_NAMED = 10


class HostError(RejectedError):
    """Something on this host failed: attach, mount, copy, unmount."""

    def __init__(self, message: str, next_step: str = "", code: Code = Code.HOST_ERROR) -> None:
        super().__init__(code, message, next_step)


class ToolError(HostError):
    """An external program is missing, failed or took too long; `output` is what it said."""

    def __init__(self, message: str, next_step: str = "", output: str = "") -> None:
        super().__init__(message, next_step)
        self.output = output


class FsBusyError(HostError):
    """A file system can't be unmounted because processes hold it."""

    def __init__(self, mountpoint: str, holders: Sequence[str]) -> None:
        who = listed(holders) or "no process we can see"
        super().__init__(
            f"{mountpoint} is in use by {who}",
            "end what uses it, or ask again with --force",
            Code.IN_USE,
        )
        self.holders = list(holders)


class PathRefusedError(HostError):
    """A requested path that leads out of the volume, or through a link."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"'{path}' is refused: {why}",
            "name files by their path on the data set's own file system, without links",
            Code.BAD_REQUEST,
        )


class MissingFilesError(HostError):
    """Named files that the backup doesn't have."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            f"not in the backup: {listed(missing)}",
            "check the names with a dry run; nothing was changed",
            Code.NOT_FOUND,
        )
        self.missing = list(missing)


class ConflictsError(HostError):
    """Files that were changed since the backup, in a restore that was told to fail then."""

    def __init__(self, changed: Sequence[str]) -> None:
        super().__init__(
            f"changed since the backup: {listed(changed)}",
            "restore with --conflict keep-both, overwrite or skip; nothing was changed",
            Code.WRONG_STATE,
        )


class FinalError(HostError):
    """What trying again can't change."""


class UnflushedError(FinalError):
    """What was written to a volume could not be flushed: a second flush would say nothing of it."""

    def __init__(self, device: str, why: str) -> None:
        super().__init__(
            f"flushing {device} failed ({why}): the last writes are lost",
            "look at the volume's health; it has to be attached and mounted anew",
        )


def as_rejected(error: RejectedError | OSError) -> RejectedError:
    """An error of the operating system as one that ends a command."""
    if isinstance(error, RejectedError):
        return error
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    where = f" ({error.filename})" if error.filename else ""
    return HostError(
        f"{error.strerror or error}{where}",
        "make room on the file system" if full else "look at the host's log",
        Code.NO_SPACE if full else Code.HOST_ERROR,
    )


class InterruptedWorkError(HostError):
    """Work in a thread ended early because its job was cancelled or the agent stops."""

    def __init__(self) -> None:
        super().__init__("interrupted")


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, at most `MAX_NAMED` of them."""
    shown = ", ".join(names[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
