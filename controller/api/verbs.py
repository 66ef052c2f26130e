"""The table of verbs: who answers them, what they take and what they give.

Owns the list; a verb that isn't here doesn't exist. `durable` verbs change something: their
request ids are remembered durably before they are carried out, so that a redelivered request
is answered again and not done again.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api import messages as m
from controller.api.messages import NodeKind


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the API."""

    name: str
    kind: NodeKind
    params: type[m.Params]
    result: type[m.Info]
    durable: bool


_C = NodeKind.CONTROLLER
_A = NodeKind.AGENT

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("node.show", _C, m.Empty, m.NodeInfo, durable=False),
        Verb("volume.create", _C, m.VolumeCreate, m.VolumeInfo, durable=True),
        Verb("volume.grow", _C, m.VolumeGrow, m.VolumeInfo, durable=True),
        Verb("volume.allow", _C, m.VolumeAllow, m.VolumeInfo, durable=True),
        Verb("volume.list", _C, m.Empty, m.VolumeList, durable=False),
        Verb("volume.show", _C, m.Named, m.VolumeInfo, durable=False),
        Verb("volume.delete", _C, m.VolumeDelete, m.VolumeInfo, durable=True),
        Verb("pair.create", _C, m.PairCreate, m.PairInfo, durable=True),
        Verb("pair.list", _C, m.Empty, m.PairList, durable=False),
        Verb("pair.show", _C, m.Named, m.PairInfo, durable=False),
        Verb("pair.split", _C, m.PairSplit, m.PairInfo, durable=True),
        Verb("pair.resync", _C, m.PairResync, m.PairInfo, durable=True),
        Verb("pair.resolve", _C, m.PairResolve, m.PairInfo, durable=True),
        Verb("pair.takeover", _C, m.PairTakeover, m.PairInfo, durable=True),
        Verb("pair.swap", _C, m.PairSwap, m.PairInfo, durable=True),
        Verb("pair.verify", _C, m.PairVerify, m.PairInfo, durable=True),
        Verb("pair.delete", _C, m.PairDelete, m.PairInfo, durable=True),
        Verb("pair.changed", _C, m.PairChanged, m.ChangedRanges, durable=False),
        Verb("group.create", _C, m.GroupCreate, m.GroupInfo, durable=True),
        Verb("group.list", _C, m.Empty, m.GroupList, durable=False),
        Verb("group.show", _C, m.Named, m.GroupInfo, durable=False),
        Verb("group.split", _C, m.GroupSplit, m.GroupInfo, durable=True),
        Verb("group.resync", _C, m.GroupResync, m.GroupInfo, durable=True),
        Verb("group.mark", _C, m.GroupMark, m.GroupInfo, durable=True),
        Verb("group.delete", _C, m.Named, m.GroupInfo, durable=True),
        Verb("backup.mark", _C, m.BackupMark, m.PairInfo, durable=True),
        Verb("backup.settle", _C, m.BackupSettle, m.BackupSettled, durable=True),
        Verb("view.open", _C, m.ViewOpen, m.VolumeInfo, durable=True),
        Verb("view.close", _C, m.Named, m.VolumeInfo, durable=True),
        Verb("fs.show", _A, m.DataSetNamed, m.HostFs, durable=False),
        Verb("fs.freeze", _A, m.FsFreeze, m.HostFs, durable=True),
        Verb("fs.thaw", _A, m.DataSetNamed, m.HostFs, durable=True),
        Verb("fs.release", _A, m.FsRelease, m.HostFs, durable=True),
        Verb("fs.reclaim", _A, m.FsReclaim, m.HostFs, durable=True),
        Verb("db.show", _A, m.DataSetNamed, m.RecoveryInfo, durable=False),
        Verb("db.recover", _A, m.DbRecover, m.RecoveryInfo, durable=True),
        Verb("backup.list", _A, m.DataSetNamed, m.BackupList, durable=False),
        Verb("fs.list", _A, m.FsList, m.FsEntries, durable=False),
        Verb("fs.digest", _A, m.FsDigest, m.DigestInfo, durable=False),
        Verb("fs.extents", _A, m.FsExtents, m.FileExtents, durable=False),
        Verb("job.look", _A, m.LookStart, m.JobInfo, durable=True),
        Verb("look.list", _A, m.LookList, m.FsEntries, durable=False),
        Verb("look.read", _A, m.LookRead, m.LookPiece, durable=False),
        Verb("look.diff", _A, m.LookDiff, m.Differences, durable=False),
        Verb("look.close", _A, m.Named, m.JobInfo, durable=True),
        Verb("job.backup", _A, m.BackupStart, m.JobInfo, durable=True),
        Verb("job.backup_group", _A, m.GroupBackupStart, m.JobInfo, durable=True),
        Verb("job.restore", _A, m.RestoreStart, m.JobInfo, durable=True),
        Verb("job.restore_group", _A, m.GroupRestoreStart, m.JobInfo, durable=True),
        Verb("job.undo", _A, m.UndoStart, m.JobInfo, durable=True),
        Verb("undo.drop", _A, m.UndoDrop, m.BackupList, durable=True),
        Verb("job.list", _A, m.Empty, m.JobList, durable=False),
        Verb("job.show", _A, m.Named, m.JobInfo, durable=False),
        Verb("job.cancel", _A, m.Named, m.JobInfo, durable=True),
        Verb("job.resume", _A, m.Named, m.JobInfo, durable=True),
    )
}
