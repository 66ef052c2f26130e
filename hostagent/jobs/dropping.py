"""What is kept for undos: what a job needs that brings it back, and giving it up.

Owns both as far as they need no job of their own. Must not be called while a job has the data
set. Fails with RejectedError.
"""

from __future__ import annotations

import hashlib
from typing import Any

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.undo import undone_job
from hostagent.config import DataSetConfig
from hostagent.jobs.ports import Nodes
from hostagent.jobs.slots import choose_undo, newest_first
from hostagent.jobs.survey import survey

_WHOLE = {m.JobKind.WHOLE, m.JobKind.GROUP_RESTORE}


def undo_params(slot: m.BackupInfo, asked: m.UndoStart, known: list[m.JobInfo]) -> dict[str, Any]:
    """Of the job that restores the whole volume from that slot; `known` are this host's jobs."""
    read = _still_counting(slot.undo_of, known)
    return {
        "paths": [],
        "to": "",
        "conflict": None,
        "dry_run": asked.dry_run,
        "force": asked.force,
        "from_backup": slot.pair,
        "undo": asked.undo.value,
        "keep": asked.keep,
        "undoes": slot.undo_of,
        "restored_from": None if read is None else [read.backup_pair, read.backup_at],
        "why": f"restore {slot.undo_of} is undone",
    }


def group_restore_params(asked: m.GroupRestoreStart) -> dict[str, Any]:
    """Of the job that restores a group; from what a restore has overwritten it is an undo."""
    undoes = undone_job(asked.from_backup)
    own = {"undoes": undoes, "why": f"restore {undoes} is undone"} if undoes else {}
    return asked.model_dump(mode="json", exclude={"group"}) | own


def _still_counting(job: str, known: list[m.JobInfo]) -> m.Receipt | None:
    """The receipt of that restore, if its backup's bitmap has counted writes ever since.

    Each copy back from a backup begins the count anew, also one that came to nothing.
    """
    own = next((info for info in known if info.id == job), None)
    if own is None:
        return None
    for info in known:
        touched = info.receipt is not None or info.state is not m.JobState.DONE
        if info.kind in _WHOLE and info.started_at > own.started_at and touched:
            return None
    return own.receipt


async def drop_undo(
    nodes: Nodes, data_set: DataSetConfig, job: str, request_id: str
) -> tuple[m.BackupList, str]:
    """Let a slot that is kept for an undo follow the second volume again.

    The slots as they are then, and the pair of the one that was freed: empty where nothing was
    kept of that job (it was dropped before). Raises RejectedError (not_found) where no job is
    named and nothing is kept of any.
    """
    slots = await survey(nodes, data_set)
    freed = ""
    try:
        freed = choose_undo(slots, job).pair
    except RejectedError as exc:
        if exc.code is not Code.NOT_FOUND or not job:
            raise
    if freed:
        params = m.PairResync(name=freed, direction=m.Direction.FORWARD)
        # An id of its own: this is another request, to another node.
        digest = hashlib.blake2s(request_id.encode(), digest_size=5).hexdigest()
        await nodes.call(data_set.secondary, "pair.resync", params, f"drop-{digest}")
        slots = await survey(nodes, data_set)
    return m.BackupList(data_set=data_set.name, backups=newest_first(slots)), freed
