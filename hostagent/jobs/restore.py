"""The restore: named files come back from the third volume, through the second, to the first.

Owns the table of steps and what each undoes. The rules:

  - The view of the third is found to hold every named file before anything is touched. A dry
    run ends there, with the conflicts it can see.
  - What has changed on the second volume since the backup is written down before a byte is
    copied there: a job that goes on after a crash could not tell it any more.
  - Host 1 lets go of the first volume *before* the split, so that no write that host 1 was told
    is safe gets overwritten.
  - Until the reverse resync is asked for, the first volume is the truth: undoing a split is a
    forward resync, which throws the partial copy on the second away. A pair that was split when
    the job began is left split.
  - From then on only forward is possible.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import to_wire
from hostagent.errors import MissingFilesError
from hostagent.jobs import views
from hostagent.jobs.becoming import decide, foresee
from hostagent.jobs.conflicts import close_now, look_for_conflicts
from hostagent.jobs.context import JobContext
from hostagent.jobs.discarding import look_for_writes
from hostagent.jobs.pairs import (
    SPLIT,
    is_untouched,
    note_copies_back,
    refuse_overwritten,
    resync,
    show_pair,
)
from hostagent.jobs.recovering import databases_of, judge, recover, refuse_parts, start_again
from hostagent.jobs.restore_files import (
    asked_of,
    compare,
    copy,
    mount_second,
    noted_conflicts,
    place_of,
    policy_of,
    unmount_second,
    verify,
)
from hostagent.jobs.restore_plan import plan_of
from hostagent.jobs.retry import UNANSWERED
from hostagent.jobs.steps import JobTable, Step
from hostagent.jobs.survey import choose_source, source_of

# ---------------------------------------------------------------- before anything is touched


async def plan(context: JobContext) -> None:
    """Decide from where the restore starts; refuse what can't work."""
    data_set, facts = context.data_set, context.record.facts
    asked_of(context)
    place_of(context)
    first = await show_pair(context, data_set.primary, data_set.remote_pair)
    second = await show_pair(context, data_set.secondary, data_set.remote_pair)
    if not first.peer_connected:
        raise RejectedError(
            Code.NO_PEER,
            f"{data_set.primary} has no connection to {data_set.secondary}",
            first.next_step or "bring the link between the controllers up",
        )
    await choose_source(context)
    if first.state is m.PairState.PAIR:
        facts["start"] = "in_sync"
    elif first.state in SPLIT:
        facts["start"] = "split"
    else:
        raise RejectedError(
            Code.WRONG_STATE,
            f"remote pair '{first.name}' is {first.state.value}, a restore needs PAIR or PSUS"
            + (f": {first.reason}" if first.reason else ""),
            first.next_step or f"look at `trilun pair show {first.name}`",
        )
    note_copies_back(context, first, anew=True)
    look_for_writes(context, first)
    facts["overwritten"] = first.dirty_bytes
    facts["union"] = first.dirty_bytes + second.dirty_bytes


async def open_view(context: JobContext) -> None:
    """Open the throw-away view of the third volume."""
    await views.open_view(context, views.BACKUP)


async def close_view(context: JobContext) -> None:
    """Unmount, detach and close the view."""
    await views.close_view(context, views.BACKUP)


async def mount_view(context: JobContext) -> None:
    """Mount the view."""
    await views.mount_view(context, views.BACKUP)


async def unmount_view(context: JobContext) -> None:
    """Unmount and detach the view."""
    await views.unmount_view(context, views.BACKUP)


async def find(context: JobContext) -> None:
    """Look for every named file in the view, patterns expanded."""
    path = await views.mount_view(context, views.BACKUP)
    found = await context.ports.host.find(path, asked_of(context), context.work(0))
    record = context.record
    record.plan = plan_of(context, found, RESTORE.names)
    record.facts["file_bytes"] = found.file_bytes
    record.facts["names"] = [to_wire(name) for name in found.names]
    if found.missing:
        raise MissingFilesError(found.missing)
    await foresee(context)
    await refuse_parts(context, path, found.names, place_of(context), policy_of(context))


# ---------------------------------------------------------------- host 1 lets go, the pair splits


async def release(context: JobContext) -> None:
    """Host 1 unmounts and detaches the first volume."""
    data_set, record = context.data_set, context.record
    record.facts.setdefault("released_at", context.ports.clock.time())
    params = m.FsRelease(data_set=data_set.name, job=record.id, force=record.params["force"])
    await context.ask(data_set.host1, "fs.release", params, m.HostFs, "release")


async def reclaim(context: JobContext) -> None:
    """Host 1 attaches and mounts the first volume again."""
    data_set, record = context.data_set, context.record
    params = m.FsReclaim(data_set=data_set.name, job=record.id)
    there = await context.ask(data_set.host1, "fs.reclaim", params, m.HostFs, "reclaim")
    released_at = record.facts.get("released_at")
    if released_at is not None and "released_s" not in record.facts:
        record.facts["released_s"] = max(0.0, context.ports.clock.time() - released_at)
    if not context.committed:
        await start_again(context, there)


async def give_back(context: JobContext) -> None:
    """Host 1 gets its volume before all else is undone, which may have to wait for the link."""
    if "released_at" in context.record.facts:
        await refuse_overwritten(context)
        await reclaim(context)


async def split(context: JobContext) -> None:
    """Split the remote pair and let this host write to the second volume."""
    data_set = context.data_set
    label = f"restore {context.record.id}"
    params = m.PairSplit(name=data_set.remote_pair, writable=True, label=label)
    await context.ask(data_set.primary, "pair.split", params, m.PairInfo, "split")


async def undo_split(context: JobContext) -> None:
    """The first volume is the truth: bring the second back to it."""
    data_set = context.data_set
    if context.record.facts["start"] == "split":
        # It was found split and stays so: what is on its two sides is the operator's business.
        if context.record.facts.get("copying"):
            context.record.next_step = (
                f"{context.record.next_step}; the second volume may hold a part of the files: "
                "restore again, or discard it with "
                f"`trilun pair resync {data_set.remote_pair} --forward`"
            ).removeprefix("; ")
        return
    await mirror_again(context, "resync-back")


async def mirror_again(context: JobContext, key: str) -> None:
    """Bring the second volume to what the first is. A pair in PAIR may have got there backwards."""
    node, name = context.data_set.primary, context.data_set.remote_pair
    await refuse_overwritten(context)
    if (await show_pair(context, node, name)).state is m.PairState.PAIR:
        return
    try:
        await resync(context, node, name, key, m.Direction.FORWARD)
    except RejectedError as exc:
        then = f"then `trilun pair resync {name} --forward`"
        raise RejectedError(
            exc.code, exc.message, f"{exc.next_step}; {then}".removeprefix("; then ")
        ) from exc
    await refuse_overwritten(context)


# ---------------------------------------------------------------- only forward from here


async def resync_first(context: JobContext) -> None:
    """Re-synchronise the first volume from the second."""
    data_set = context.data_set
    try:
        pair = await resync(
            context,
            data_set.primary,
            data_set.remote_pair,
            "resync",
            m.Direction.REVERSE,
            # Said before it is asked: if the answer is lost, nobody may think it wasn't begun.
            ahead=lambda: context.commit(True),
        )
    except RejectedError as exc:
        # A link that breaks while it is being agreed is an answer, and no end of it: the
        # primary remembers, and goes on with it by itself.
        if context.committed and exc.code not in UNANSWERED and await is_untouched(context):
            await context.commit(False)
        raise
    context.record.facts["wire"] = {
        "payload_bytes": pair.resync_payload_bytes,
        "wire_bytes": pair.resync_wire_bytes,
        "union_bytes": pair.resync_union_bytes,
        "discarded_bytes": pair.resync_discarded_bytes,
    }


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    record, facts = context.record, context.record.facts
    now = context.ports.clock.time()
    record.receipt = m.Receipt(
        job=record.id,
        kind=record.kind,
        data_set=record.data_set,
        label=source_of(context).label,
        backup_pair=source_of(context).pair,
        backup_at=source_of(context).taken_at,
        files=[m.RestoredFile.model_validate(file) for file in facts["files"]],
        file_count=facts["files_count"],
        unchanged_count=facts["unchanged"],
        to=record.plan.to if record.plan is not None else "",
        conflict=policy_of(context),
        conflicts=noted_conflicts(context),
        conflict_count=facts["changed_count"],
        file_bytes=facts["copied_bytes"],
        bytes_read=facts["read_bytes"],
        verified=True,
        databases=databases_of(record),
        frozen_s=float(facts.get("released_s", 0.0)),
        duration_s=max(0.0, now - record.started_at),
        step_s=record.step_s,
        started_at=record.started_at,
        finished_at=now,
        **facts["wire"],
    )


RESTORE = JobTable(
    (
        Step("plan", plan),
        Step("open-view", open_view, undo=close_view),
        Step("mount-view", mount_view, undo=unmount_view),
        Step("find", find),
        Step("conflicts", look_for_conflicts, undo=close_now),
        Step("release", release, undo=reclaim),
        Step("split", split, undo=undo_split),
        Step("mount-second", mount_second, undo=unmount_second),
        Step("decide", decide),
        Step("compare", compare),
        Step("copy", copy),
        Step("verify", verify),
        Step("unmount-second", unmount_second),
        Step("close-view", close_view),
        Step("resync", resync_first),
        Step("reclaim", reclaim),
        Step("recover", recover),
        Step("receipt", receipt),
        Step("databases", judge, resume_at="recover"),
    ),
    ahead_of_undo=give_back,
)
