"""What a dry run finds out about conflicts: files that have changed since the backup.

Owns where "now" is looked at. With the remote pair in PAIR the second volume can't be looked at
(it changes with each write of host 1), but holds what the first does: host 1 is asked. With the
pair split it stands still: a throw-away view of it is mounted. Must not change anything. What
can't be found out is no failure: the plan says why.
"""

from __future__ import annotations

from pathlib import Path

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import from_wire
from hostagent.copying.beneath import joined, shown
from hostagent.copying.comparing import MAX_CONFLICTS, Compared
from hostagent.copying.placing import Placing
from hostagent.errors import ConflictsError
from hostagent.jobs import views
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import show_volume
from hostagent.jobs.restore_files import conflicts_of, names_of, placing_of, policy_of
from hostagent.jobs.steps import EndEarlyError
from hostagent.looking.listing import Batch
from hostagent.looking.now import NowFiles, first_difference
from hostagent.looking.telling import kind_of, metadata_differences, other_kind, untouched


async def look_for_conflicts(context: JobContext) -> None:
    """Complete the plan of a dry run, which ends here.

    A restore that is told to fail on conflicts looks as well: what it finds now costs host 1
    nothing. It looks again before it copies, when nobody else can write.
    """
    dry_run = context.record.params["dry_run"]
    failing = policy_of(context) is m.Conflict.FAIL
    if not dry_run and not failing:
        return
    plan = context.record.plan
    assert plan is not None
    try:
        compared = await _compare(context)
    except RejectedError as exc:
        context.record.plan = plan.model_copy(update={"conflicts_unknown": exc.message})
    else:
        told = {
            "conflicts": conflicts_of(context, compared),
            "conflict_count": compared.changed_count,
        }
        context.record.plan = plan.model_copy(update=told)
        if failing and not dry_run and compared.changed:
            raise ConflictsError([shown(one.path) for one in compared.changed])
    if dry_run:
        raise EndEarlyError
    # The second volume can't be written while a view of it is open.
    await close_now(context)


async def close_now(context: JobContext) -> None:
    """Close the view of the second volume, where there is one."""
    await views.close_view(context, views.NOW)


async def _compare(context: JobContext) -> Compared:
    view = await views.mount_view(context, views.BACKUP)
    placing = placing_of(context)
    names = names_of(context)
    if context.record.facts["start"] == "in_sync":
        compared = Compared(MAX_CONFLICTS)
        now = NowFiles(context.data_set.name, lambda verb, params: _ask(context, verb, params))
        async for batch in context.ports.host.batches(view, names, context.work(0)):
            await _compare_batch(context, batch, now, placing, compared)
        return compared
    await _refuse_used(context)
    second = await views.mount_view(context, views.NOW)
    return await context.ports.host.compare(view, second, names, placing, context.work(0))


async def _ask(context: JobContext, verb: str, params: m.Params) -> m.Info:
    answer = m.FsEntries if verb == "fs.list" else m.DigestInfo
    return await context.look(context.data_set.host1, verb, params, answer)


async def _refuse_used(context: JobContext) -> None:
    """A view makes its volume read only; nobody's writes may fail for a dry run."""
    data_set = context.data_set
    volume = await show_volume(context, data_set.secondary, data_set.second)
    if volume.sessions and not context.record.facts.get(views.NOW):
        raise RejectedError(
            Code.IN_USE,
            f"{volume.sessions[0].initiator} uses volume '{volume.name}'",
            "log that host out of the volume, then look again",
        )


async def _compare_batch(
    context: JobContext, batch: Batch, now: NowFiles, placing: Placing, compared: Compared
) -> None:
    view = Path(context.record.facts[f"{views.BACKUP}_path"])

    async def backup_digest(path: str, offset_bytes: int, length_bytes: int) -> m.DigestInfo:
        return await context.ports.host.digest(view, path, offset_bytes, length_bytes)

    directory = placing.at(batch.directory)
    there = await now.some(directory, [from_wire(entry.name) for entry in batch.entries])
    for entry in batch.entries:
        path = joined(batch.directory, from_wire(entry.name))
        present = there.get(entry.name)
        if present is None:
            compared.note(path, None)
            continue
        changed = other_kind(entry, present)
        if not changed and kind_of(entry) != "directory":
            changed = ", ".join(metadata_differences(entry, present))
            if not changed and kind_of(entry) == "file" and not untouched(entry, present):
                differs = await first_difference(
                    [(0, entry.size_bytes)], backup_digest, path, now.digest, placing.at(path)
                )
                changed = "" if differs is None else "content"
        compared.note(path, changed)
