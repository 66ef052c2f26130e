"""The contract: every request, answer and retained state, as pydantic models.

Owns the shape of what crosses MQTT. Must import pydantic and the standard library only, so
that any client can take it along. Unknown fields are refused in requests and ignored in
answers: an old client understands a newer controller. Sizes are bytes, rates bytes a second,
times seconds (durations) or Unix seconds (`*_at`, for people only: nothing is decided by them).
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from pydantic import Field

from controller.api.backups import BackupInfo as BackupInfo
from controller.api.backups import BackupList as BackupList
from controller.api.backups import BackupMark as BackupMark
from controller.api.backups import BackupNumber as BackupNumber
from controller.api.backups import BackupSettle as BackupSettle
from controller.api.backups import BackupSettled as BackupSettled
from controller.api.backups import BackupStart as BackupStart
from controller.api.backups import GroupBackupStart as GroupBackupStart
from controller.api.backups import MemberBackup as MemberBackup
from controller.api.base import Bytes as Bytes
from controller.api.base import Direction as Direction
from controller.api.base import Info as Info
from controller.api.base import Name as Name
from controller.api.base import PairState as PairState
from controller.api.base import Params as Params
from controller.api.base import Progress as Progress
from controller.api.changed import ChangedRanges as ChangedRanges
from controller.api.changed import FileExtents as FileExtents
from controller.api.changed import FsExtents as FsExtents
from controller.api.changed import PairChanged as PairChanged
from controller.api.codes import Code, Verdict
from controller.api.first_volumes import FsFreeze as FsFreeze
from controller.api.first_volumes import FsReclaim as FsReclaim
from controller.api.first_volumes import FsRelease as FsRelease
from controller.api.first_volumes import HostFs as HostFs
from controller.api.groups import GroupCreate as GroupCreate
from controller.api.groups import GroupInfo as GroupInfo
from controller.api.groups import GroupList as GroupList
from controller.api.groups import GroupMark as GroupMark
from controller.api.groups import GroupResync as GroupResync
from controller.api.groups import GroupSplit as GroupSplit
from controller.api.jobs import JobInfo as JobInfo
from controller.api.jobs import JobKind as JobKind
from controller.api.jobs import JobList as JobList
from controller.api.jobs import JobState as JobState
from controller.api.jobs import Receipt as Receipt
from controller.api.looking import Differences as Differences
from controller.api.looking import DigestInfo as DigestInfo
from controller.api.looking import FsDigest as FsDigest
from controller.api.looking import FsEntries as FsEntries
from controller.api.looking import FsList as FsList
from controller.api.looking import LookDiff as LookDiff
from controller.api.looking import LookList as LookList
from controller.api.looking import LookPiece as LookPiece
from controller.api.looking import LookRead as LookRead
from controller.api.looking import LookStart as LookStart
from controller.api.recovery import DatabaseInfo as DatabaseInfo
from controller.api.recovery import DatabaseState as DatabaseState
from controller.api.recovery import DbRecover as DbRecover
from controller.api.recovery import RecoveryInfo as RecoveryInfo
from controller.api.restores import Conflict as Conflict
from controller.api.restores import ConflictInfo as ConflictInfo
from controller.api.restores import GroupRestoreStart as GroupRestoreStart
from controller.api.restores import MemberRestore as MemberRestore
from controller.api.restores import RestoredFile as RestoredFile
from controller.api.restores import RestorePlan as RestorePlan
from controller.api.restores import RestoreStart as RestoreStart
from controller.api.roles import PairSwap as PairSwap
from controller.api.roles import PairTakeover as PairTakeover
from controller.api.undo import Undo as Undo
from controller.api.undo import UndoDrop as UndoDrop
from controller.api.undo import UndoStart as UndoStart
from controller.api.verify import ByteRange as ByteRange
from controller.api.verify import PairResolve as PairResolve
from controller.api.verify import PairVerify as PairVerify
from controller.api.verify import VerifyInfo as VerifyInfo
from controller.api.verify import VerifyState as VerifyState
from controller.api.volumes import BLOCK_BYTES as BLOCK_BYTES
from controller.api.volumes import MAX_INITIATOR_CHARS as MAX_INITIATOR_CHARS
from controller.api.volumes import MAX_INITIATORS as MAX_INITIATORS
from controller.api.volumes import MAX_VOLUME_BYTES as MAX_VOLUME_BYTES
from controller.api.volumes import VolumeAllow as VolumeAllow
from controller.api.volumes import VolumeCreate as VolumeCreate
from controller.api.volumes import VolumeDelete as VolumeDelete
from controller.api.volumes import VolumeGrow as VolumeGrow

API_VERSION = 1


class Role(enum.StrEnum):
    """A volume's place in one pair."""

    P_VOL = "P-VOL"
    S_VOL = "S-VOL"


class PairKind(enum.StrEnum):
    """Across two controllers, or inside one."""

    REMOTE = "remote"
    LOCAL = "local"


class Mode(enum.StrEnum):
    """When a host's write is acknowledged."""

    SYNC = "sync"
    """The peer has applied it."""
    ASYNC = "async"
    """It is ordered in a bounded queue."""


class Fence(enum.StrEnum):
    """What a write on the P-VOL meets when the mirror can't follow."""

    NEVER = "never"
    """Go on and mark the blocks."""
    STATUS = "status"
    """Go on only once the other side is known to be suspended."""
    DATA = "data"
    """Fail the write."""


class AccessInfo(enum.StrEnum):
    """What hosts may do with a volume now."""

    READ_WRITE = "read_write"
    READ_ONLY = "read_only"
    NOT_READY = "not_ready"


class SessionInfo(Info):
    """One initiator that is logged in to a volume's target."""

    initiator: str
    address: str
    since_s: float
    lost_writes: bool = False
    """Behind a power loss its writes are refused until it has logged in anew."""


class VolumeInfo(Info):
    """One volume as its controller sees it."""

    name: Name
    node: Name
    size_bytes: Bytes
    allocated_bytes: Bytes
    access: AccessInfo
    consistent: bool
    """False while the content is half of two points in time (the target of a resync)."""
    healthy: bool
    """False after a failed write or fsync of the store."""
    generation: str
    """Id of the data set's version."""
    pairs: list[Name]
    view_of: Name | None = None
    """For a throw-away view: the volume it looks at."""
    target: str | None
    """IQN under which it is exported; None when it is not."""
    trouble: str = ""
    """Why hosts can't find it now: a sentence, with what to do."""
    portals: list[str] = []
    lun: int = 0
    naa: str = ""
    initiators: list[str] = []
    """Those that may log in; none: every initiator may."""
    sessions: list[SessionInfo] = []


class PairInfo(Info):
    """One side of a pair, or both where `kind` is local and both are here."""

    name: Name
    node: Name
    kind: PairKind
    role: Role
    """The side this info speaks for; for a local pair the P-VOL's."""
    state: PairState
    p_volume: Name
    s_volume: Name
    peer: Name | None
    """The other controller; None for a local pair."""
    peer_connected: bool
    mode: Mode
    fence: Fence
    rate_limit_bytes_per_s: int | None = None
    reason: str = ""
    """Why the pair is in this state, in one sentence, where that isn't obvious."""
    next_step: str = ""
    dirty_bytes: Bytes
    """Blocks marked in this side's bitmap."""
    generation: str
    goal: Literal["", "mirror", "reverse", "split"] = ""
    """What this side goes on with by itself after a cut; empty where it isn't known."""
    copies_back: int = 0
    """P-VOL: how often a copy back into its volume was begun. It never was since a time when this
    was the same, nor will be by itself while the goal isn't `reverse`."""
    split_label: str = ""
    """Label of the last split, as given with the command."""
    split_at: float = 0.0
    """When that was, as the command says; Unix seconds, 0 when it doesn't."""
    backup_number: int = 0
    """The number of the backup that the S-VOL of that split is; 0 when it is none."""
    guarded: bool = False
    """Split to keep one consistent copy (law L7); it follows its source again when that is one."""
    instant: str = ""
    """What all local pairs share that were split for one backup of several data sets."""
    behind: bool = False
    """Split quickly: what the S-VOL lacks is being copied behind it. Views show it whole."""
    progress: Progress | None = None
    resync_payload_bytes: Bytes = 0
    """Data bytes the last (or running) resync carried."""
    resync_wire_bytes: Bytes = 0
    """All bytes of that resync on the link: data, headers, bitmaps. 0 for a local pair."""
    resync_union_bytes: Bytes = 0
    """Blocks in the union of both bitmaps when that resync began."""
    resync_discarded_bytes: Bytes = 0
    """Blocks written on the target since the split, which that resync overwrites."""
    resync_compared_bytes: Bytes = 0
    """Data that a crash had put in doubt and that was compared by digest before it was copied."""
    split_brain: bool = False
    """Both sides were written since they parted; `pair.resolve` names the side to give up."""
    verify: VerifyInfo | None = None
    """The last comparison of both sides, or the one that runs; the P-VOL's side has it."""


class NodeKind(enum.StrEnum):
    """Who answers under a node's name."""

    CONTROLLER = "controller"
    AGENT = "agent"


class DataSetRef(Info):
    """A data set an agent serves, and in which part."""

    name: Name
    part: Literal["host1", "host2"]
    mountpoint: str = ""
    primary: str = ""
    """The controller of its first volume."""
    remote_pair: str = ""


class NodeStatus(Info):
    """A node's retained status; the will replaces it by `online: false`."""

    node: Name
    kind: NodeKind
    online: bool
    version: str
    api_version: int = API_VERSION
    started_at: float = 0.0
    detail: str = ""
    peers: dict[str, bool] = {}
    """Controllers: peer name to connected."""
    data_sets: list[DataSetRef] = []
    """Agents: what they serve."""


# ---------------------------------------------------------------- requests: volumes and pairs


class Empty(Params):
    """A request without parameters."""


class Named(Params):
    """A request about one object."""

    name: Name


class PairCreate(Params):
    """Bind two volumes. Asked of the P-VOL's controller; starts the initial copy."""

    name: Name
    kind: PairKind
    p_volume: Name
    s_volume: Name
    peer: Name | None = None
    """The S-VOL's controller, for a remote pair."""
    mode: Mode = Mode.SYNC
    fence: Fence = Fence.NEVER
    rate_limit_bytes_per_s: Annotated[int, Field(ge=1 << 20)] | None = None


class PairSplit(Params):
    """Stop mirroring at one instant; both sides keep what they have and mark what changes."""

    name: Name
    writable: bool = False
    """Let hosts write to the S-VOL. A repeated split may change this."""
    quick: bool = False
    """Local pairs: also out of COPY or a split; what differs is copied behind the new split."""
    label: str = Field(default="", max_length=128)
    at: float = Field(default=0.0, ge=0)
    """When, by the clock of whoever asks; Unix seconds, for people."""
    number: BackupNumber = 0
    """The number of the backup that the S-VOL becomes; 0 when it is none."""


class PairResync(Params):
    """Make both sides equal again: copy the union of both bitmaps."""

    name: Name
    direction: Direction | None = None
    """Which side to keep; without it the pair goes forward, and a forward copy that would
    discard writes of the S-VOL is refused (law L8)."""
    full: bool = False
    """Allow a full copy where the bitmaps can't tell the difference (law L8)."""
    force: bool = False
    """Reverse only: overwrite the P-VOL although an initiator is logged in (law L12)."""
    expect_generation: str | None = None
    rate_limit_bytes_per_s: Annotated[int, Field(ge=1 << 20)] | None = None


class PairDelete(Params):
    """Dissolve a pair; both volumes stay as they are."""

    name: Name
    force: bool = False
    """Delete this side alone when the peer can't be reached."""


class ViewOpen(Params):
    """Open a throw-away copy-on-write view of a volume; it is exported like a volume."""

    volume: Name
    view: Name


class NodeInfo(Info):
    """Everything a controller has, in one answer."""

    status: NodeStatus
    volumes: list[VolumeInfo]
    pairs: list[PairInfo]


class VolumeList(Info):
    """Answer of `volume.list`."""

    volumes: list[VolumeInfo]


class PairList(Info):
    """Answer of `pair.list`."""

    pairs: list[PairInfo]


# ---------------------------------------------------------------- requests: host agents


class DataSetNamed(Params):
    """A request about one data set."""

    data_set: Name


class Request(Params):
    """The envelope of a request; the verb is in the topic."""

    id: Name
    """Chosen by the caller; the same id is carried out once, whatever is delivered twice."""
    params: dict[str, Any] = {}


class Reply(Info):
    """The envelope of an answer."""

    id: str
    node: str
    verdict: Verdict
    code: Code
    message: str
    next_step: str = ""
    result: dict[str, Any] | None = None
