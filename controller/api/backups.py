"""The contract of backups: taking them, listing them, and the mark that makes one.

Owns the shape only. A backup's number is what its age is told by; its time is for people.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from controller.api.base import Bytes, Info, Name, PairState, Params
from controller.api.groups import MAX_GROUP_PAIRS
from controller.api.recovery import DatabaseInfo
from controller.api.undo import undone_job

MAX_SLOTS = 32
"""Third volumes of one data set."""

BackupNumber = Annotated[int, Field(ge=0, le=1 << 53)]


class BackupMark(Params):
    """Split the local pair behind a remote one at one point of the remote stream.

    Asked of the primary: everything acknowledged to host 1 before is in the third volume,
    nothing after is. The remote pair goes on, or is split at that very point.
    """

    remote_pair: Name
    local_pair: Name
    label: str = Field(default="", max_length=128)
    split_remote: bool = False
    """Split the remote pair, too."""
    quick: bool = False
    """The local pair may be in COPY: what differs is copied behind the split."""
    at: float = Field(default=0.0, ge=0)
    """When, by the clock of the host that asks; Unix seconds, for people."""
    number: BackupNumber = 0
    """The backup's number in its data set; a later one has a larger one. 0: none was given."""


class BackupSettle(Params):
    """Keep the local pairs that were split at one instant as one backup, or give all of them up.

    Asked of the secondary, behind a `group.mark`: before, none of them is a backup.
    """

    instant: Annotated[str, Field(min_length=1, max_length=64)]
    local_pairs: Annotated[list[Name], Field(min_length=1, max_length=MAX_GROUP_PAIRS)]
    label: str = Field(default="", max_length=128)
    keep: bool
    """False: they follow again by themselves. Those that don't hold that instant are left alone."""


class BackupSettled(Info):
    """Answer of `backup.settle`: the local pairs, as they are now."""

    instant: str
    states: dict[Name, PairState]
    """By local pair; SMPL where one is gone."""


class GroupBackupStart(Params):
    """Take a backup of all data sets behind a group of remote pairs, at one instant."""

    group: Name
    node: Name
    """The controller that has the group."""
    label: str = Field(default="", max_length=128)
    quiesce: bool = True
    keep: Annotated[int, Field(ge=0, le=MAX_SLOTS)] | None = None
    """As in `BackupStart`, for each data set."""
    split_remote: bool = False
    deadline_s: Annotated[float, Field(gt=0, le=600)] | None = None
    """If not all sides have confirmed by then, nothing was split. None: as long as the freeze
    may last."""


class MemberBackup(Info):
    """One data set's part of a backup of several."""

    data_set: Name
    pair: Name
    """The local pair that holds it."""
    replaced: str = ""
    """The backup that was overwritten for it."""
    frozen_s: float = 0.0
    databases: list[DatabaseInfo] = []


class BackupStart(Params):
    """Take a backup of a data set, into the slot that is free or holds the oldest one."""

    data_set: Name
    label: str = Field(default="", max_length=128)
    quiesce: bool = True
    keep: Annotated[int, Field(ge=0, le=MAX_SLOTS)] | None = None
    """So many of the newest backups are not overwritten. None: the newest, where the data set has
    several slots; none where it has one."""
    split_remote: bool = False
    """Split the remote pair at the same instant."""
    quick: bool = False
    """Don't wait until the slot has caught up: what differs is copied behind the split."""

    @field_validator("label")
    @classmethod
    def _is_no_undo(cls, label: str) -> str:
        if undone_job(label):
            raise ValueError("labels like this are those of restores that can be undone")
        return label


class BackupInfo(Info):
    """One backup slot of a data set: a local pair and its third volume."""

    pair: Name
    volume: Name
    state: str
    """The local pair's state; SMPL when there is none."""
    is_backup: bool
    """Whether the third volume holds one point in time that stays."""
    label: str = ""
    taken_at: float = 0.0
    """Unix seconds; 0 when it isn't known."""
    number: int = 0
    behind: bool = False
    """Split quickly, and being copied still: files can be restored from it, and it can be looked
    into; the whole volume can't be before the end. Lost with the second volume until then."""
    dirty_bytes: Bytes = 0
    """Blocks written on the second volume since."""
    undo_of: str = ""
    """The restore that has overwritten this. Kept until it is dropped; never taken for a backup,
    nor for the newest one."""
    reason: str = ""
    next_step: str = ""


class BackupList(Info):
    """Answer of `backup.list`: every slot, the newest backup first."""

    data_set: Name
    backups: list[BackupInfo]
