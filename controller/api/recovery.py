"""The contract of databases on a data set: what a backup prepared, what a restore recovered.

Owns the shape only.
"""

from __future__ import annotations

import enum
from typing import Literal

from controller.api.base import Info, Name, Params

DatabaseKind = Literal["postgresql", "mariadb", "sqlite", "hook"]


class DatabaseState(enum.StrEnum):
    """How a database is, as far as the agent of host 1 had to do with it."""

    IDLE = "idle"
    """Nothing was done with it since the agent started."""
    QUIESCED = "quiesced"
    """A backup prepared it before the freeze."""
    NOT_RUNNING = "not_running"
    """A backup found it stopped: there was nothing to prepare."""
    STOPPED = "stopped"
    """Stopped for a job; it is started again when the job gives the volume back."""
    STARTING = "starting"
    CHECKING = "checking"
    """It serves; its check runs."""
    STARTED = "started"
    """It serves, and was not checked."""
    GOOD = "good"
    """It serves, and its own check found nothing."""
    FAILED = "failed"
    """It did not start, or its check found something; `error` says what."""


class DatabaseInfo(Info):
    """One database of a data set."""

    name: Name
    kind: DatabaseKind
    path: str
    """On the volume; empty: its root."""
    also: list[str] = []
    """Further paths that belong to it."""
    state: DatabaseState = DatabaseState.IDLE
    done: str = ""
    """What was done, in words: `checkpoint`, `amcheck of 312 relations`."""
    error: str = ""
    next_step: str = ""
    recover_s: float = 0.0
    """From the start until it served."""
    check_s: float = 0.0


class DbRecover(Params):
    """Start the databases of a data set on host 1, wait for their recovery, and check them.

    It begins in the background; `db.show` tells how far it is. Asked again for the same job it
    goes on, or has been.
    """

    data_set: Name
    job: Name | None = None
    """The job that restored them; None: an operator asks."""
    check: bool = True
    """False: start only what was stopped for the job, and check nothing."""


class RecoveryInfo(Info):
    """Answer of `db.show` and `db.recover`."""

    data_set: Name
    job: str = ""
    """The job the last recovery was for."""
    running: bool = False
    """Whether it is still under way."""
    concerned: list[str] = []
    """The databases it is about."""
    databases: list[DatabaseInfo] = []
