"""The contract of host agents' jobs: what they are, how far, and what they leave.

Owns the shape only.
"""

from __future__ import annotations

import enum

from controller.api.backups import MemberBackup
from controller.api.base import Bytes, Info, Name, Progress
from controller.api.codes import Code
from controller.api.recovery import DatabaseInfo
from controller.api.restores import Conflict, ConflictInfo, MemberRestore, RestoredFile, RestorePlan


class JobState(enum.StrEnum):
    """A job runs, or has ended in one of three ways."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """Stopped with everything undone, or in a state that `error` and `next_step` name."""
    CANCELLED = "cancelled"


class JobKind(enum.StrEnum):
    """What a host agent does for an operator."""

    BACKUP = "backup"
    RESTORE = "restore"
    LOOK = "look"
    """A view of a backup, open for a while to be looked at."""
    WHOLE = "whole"
    """A restore of the whole volume."""
    GROUP_BACKUP = "backup-group"
    """A backup of several data sets at one instant."""
    GROUP_RESTORE = "restore-group"
    """A restore of the whole volumes of several data sets to one instant."""


class Receipt(Info):
    """What a finished job leaves: the numbers an operator files."""

    job: Name
    kind: JobKind
    data_set: Name
    label: str = ""
    backup_pair: str = ""
    """The local pair that holds the backup: the one taken, or the one restored from."""
    backup_at: float = 0.0
    """When that was taken; Unix seconds, 0 when it isn't known."""
    replaced: str = ""
    """Backup: the one that was overwritten for it."""
    members: list[MemberBackup] = []
    """Backup of a group: what each data set has of it."""
    restored: list[MemberRestore] = []
    """Restore of a group: what was done for each data set; the numbers cover all."""
    second_union_bytes: Bytes = 0
    """Whole volume: blocks that differed between second and third."""
    second_payload_bytes: Bytes = 0
    """Whole volume: data copied from the third to the second."""
    whole: str = ""
    """Why the whole volume was restored, in a sentence; empty when it wasn't."""
    undo: str = ""
    """Whole volume: how to undo it, or why that can't be, in a sentence."""
    undo_pair: str = ""
    """The local pair of the slot that keeps what was overwritten."""
    files: list[RestoredFile] = []
    """At most 1,000; the numbers cover all."""
    file_count: int = 0
    unchanged_count: int = 0
    """Files of the set that were the same already, and were left alone."""
    to: str = ""
    """Directory of the data set that got the files; empty: their own places."""
    conflict: Conflict | None = None
    conflicts: list[ConflictInfo] = []
    """At most 1,000 files that had changed since the backup, and what became of each."""
    conflict_count: int = 0
    file_bytes: Bytes = 0
    """Sizes of the regular files of the set."""
    bytes_read: Bytes = 0
    """Read back from the second volume to verify."""
    union_bytes: Bytes = 0
    """Blocks that differed: of first and second, or of the slots that a backup brought in sync."""
    discarded_bytes: Bytes = 0
    payload_bytes: Bytes = 0
    """Data that was copied for it; of a quick backup what was copied before the split."""
    wire_bytes: Bytes = 0
    verified: bool = False
    """All that came back was compared with the backup."""
    compared_bytes: Bytes = 0
    """Whole volume: of both pairs, by digest."""
    databases: list[DatabaseInfo] = []
    """What a backup prepared, and what a restore recovered and checked."""
    frozen_s: float = 0.0
    """How long the file system was frozen (backup) or released (restore)."""
    duration_s: float = 0.0
    step_s: dict[str, float] = {}
    """How long each step took."""
    started_at: float = 0.0
    finished_at: float = 0.0


class JobInfo(Info):
    """A job of a host agent, durable across restarts."""

    id: Name
    kind: JobKind
    data_set: Name
    """Or the group of data sets."""
    data_sets: list[Name] = []
    """Those of a group's job."""
    node: Name
    state: JobState
    step: str
    """Name of the step under way, or of the last one."""
    steps: list[str]
    started_at: float
    message: str = ""
    progress: Progress | None = None
    error: str = ""
    code: Code = Code.OK
    next_step: str = ""
    plan: RestorePlan | None = None
    receipt: Receipt | None = None


class JobList(Info):
    """Answer of `job.list`."""

    jobs: list[JobInfo]
