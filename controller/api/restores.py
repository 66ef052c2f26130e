"""The contract of `job.restore`: which files come back, where to, and what is done with conflicts.

Owns the shape of what is asked, of the plan and of what a receipt says about files.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from controller.api.base import Bytes, Direction, Info, Name, Params
from controller.api.recovery import DatabaseInfo
from controller.api.undo import Keep, Undo

MAX_PATHS = 10_000
DEADLINE_S = 3600.0
MAX_DEADLINE_S = 7 * 86400.0
Kind = Literal["file", "directory", "symlink", "other"]


class Conflict(enum.StrEnum):
    """What a restore does with a file that was changed on the volume since the backup."""

    KEEP_BOTH = "keep-both"
    """The changed file stays beside the restored one, under another name."""
    OVERWRITE = "overwrite"
    SKIP = "skip"
    """The changed file stays, the backup's does not come back."""
    FAIL = "fail"
    """Nothing is restored."""


class RestoreStart(Params):
    """Bring the named files of a data set back from its backup."""

    data_set: Name
    paths: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=MAX_PATHS)
    ] = []
    """Files, directories, or patterns; from the volume's root or as host 1's absolute paths."""
    to: Annotated[str, Field(max_length=4096)] = ""
    """Directory of the same data set that gets the files, with their relative paths."""
    conflict: Conflict | None = None
    """None: the agent's default, `keep-both`."""
    dry_run: bool = False
    force: bool = False
    """Unmount host 1's file system even when processes hold it."""
    discard_writes: bool = False
    """Found split: what was written on the first volume since may be lost."""
    from_backup: Annotated[str, Field(max_length=128)] = ""
    """Label or local pair of the backup to restore from; empty: the newest."""
    whole: bool = False
    """The whole volume, block by block, instead of named files."""
    undo: Undo | None = None
    """Whole volume: whether what is overwritten is kept in a free slot. None: it has to be."""
    verify: bool = False
    """Whole volume: compare all of it by digest before hosts get it. Files are read back anyway."""
    keep: Keep | None = None
    """Whole volume: for that, the oldest backup may be overwritten that isn't one of so many
    newest. None: no backup is."""

    @model_validator(mode="after")
    def _paths_or_whole(self) -> RestoreStart:
        if self.whole and (self.paths or self.to or self.conflict is not None):
            raise ValueError("a whole volume has no paths, no other place and no conflicts")
        if not self.whole and not self.paths:
            raise ValueError("paths: name files, or ask for the whole volume")
        if not self.whole and (self.undo is not None or self.keep is not None):
            raise ValueError("undo, keep: only a whole volume is kept for an undo")
        return self


class GroupRestoreStart(Params):
    """Bring the whole volumes of all data sets behind a group back to one instant, or none."""

    group: Name
    node: Name
    """The controller that has the group."""
    from_backup: Annotated[str, Field(max_length=128)] = ""
    """Label of the backups; empty: the newest instant of which every data set has one."""
    dry_run: bool = False
    force: bool = False
    """Unmount host 1's file systems even when processes hold them."""
    discard_writes: bool = False
    """Found split: what was written on the first volumes since may be lost."""
    undo: Literal[Undo.REQUIRED, Undo.NEVER] = Undo.REQUIRED
    """Whether what is overwritten is kept, for all data sets alike."""
    keep: Keep | None = None
    verify: bool = False
    """Compare all of it by digest before hosts get it."""
    deadline_s: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S)] = DEADLINE_S
    """From the moment host 1 lets go: if not all second volumes hold the backup by then, all of
    it is undone."""


class RestoredFile(Info):
    """One file (or directory, or link) that came back."""

    path: str
    kind: Kind
    size_bytes: Bytes
    digest: str = ""
    """SHA-256 of the content read back from the second volume; files only."""


class ConflictInfo(Info):
    """One file that was changed on the volume since the backup."""

    path: str
    changed: str
    """What differs, in words: `size, modification time`."""
    action: Literal["keep", "overwrite", "skip", "fail"]
    kept_as: str = ""
    """Where the changed file is now."""


class RestorePlan(Info):
    """What a restore would do, decided before anything is touched."""

    data_set: Name
    backup_pair: str = ""
    """The local pair that holds the backup."""
    backup_label: str = ""
    backup_at: float = 0.0
    """When that was taken; Unix seconds, 0 when it isn't known."""
    whole: str = ""
    """Why the whole volume is restored and not the named files; empty when it isn't."""
    second_union_bytes: Bytes = 0
    """Whole volume: blocks that differ between the second volume and the third."""
    undo: str = ""
    """Whole volume: how it can be undone, or why it can't, in a sentence."""
    undo_pair: str = ""
    """The local pair of the slot that keeps what is overwritten; empty: it can't be undone."""
    files: list[RestoredFile]
    """At most 1,000 of the named files; patterns are expanded."""
    file_count: int = 0
    """All files of the set, those in directories included."""
    missing: list[str]
    """At most 1,000 of what was asked for and isn't there."""
    to: str = ""
    bytes_to_copy: Bytes
    direction: Direction
    rule: str
    """The rule that decided the direction, in a sentence."""
    starting_point: Literal["in_sync", "split"]
    meaning: str = ""
    """What that starting point means for writes made since, in a sentence."""
    overwritten_bytes: Bytes
    """Written on the first volume since the split: lost by the restore. 0 when in sync."""
    discarded_bytes: Bytes = 0
    """Of these, written since a split that the job found: lost only where that is allowed."""
    needs: str = ""
    """What has to be allowed for this restore, and why: an option, a colon, a sentence."""
    union_bytes: Bytes
    """Blocks marked on both sides now; the files' blocks come on top."""
    expected_union_bytes: Bytes = 0
    """Those and the files': about what the first volume will be sent."""
    conflict: Conflict = Conflict.KEEP_BOTH
    conflicts: list[ConflictInfo] = []
    """At most 1,000; `conflict_count` has their number."""
    conflict_count: int = 0
    conflicts_unknown: str = ""
    """Why conflicts could not be looked for; empty when they were."""
    eta_s: float
    steps: list[str]
    members: list[RestorePlan] = []
    """Restore of a group: the plan for each data set; the numbers cover all."""


class MemberRestore(Info):
    """One data set's part of a restore of several."""

    data_set: Name
    backup_pair: str
    second_union_bytes: Bytes
    """Blocks that differed between second and third."""
    union_bytes: Bytes
    discarded_bytes: Bytes
    payload_bytes: Bytes
    wire_bytes: Bytes
    undo: str = ""
    undo_pair: str = ""
    """The local pair of the slot that keeps what was overwritten."""
    released_s: float = 0.0
    verified: bool = False
    compared_bytes: Bytes = 0
    databases: list[DatabaseInfo] = []
