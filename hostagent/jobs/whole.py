"""The restore of a whole volume: the first becomes what a third was at its split, by bitmaps alone.

Owns the table of steps and what each undoes. The rules:

  - Host 1 lets go of the first volume before anything is copied; the remote pair is split then,
    and only then may the second be copied back to from the third.
  - A copy back ends in a mirror: what the second got next would be the end of the backup. So the
    slot's pair is split again, under its old name, before anything else happens to the second.
  - Until the reverse resync of the first is asked for, the first volume is the truth: undoing is
    that split, and a forward resync. A pair that was split when the job began is left split.
  - From then on only forward is possible.
  - What is overwritten is kept in another slot where one is free (`undo`); undoing the restore
    later is a restore from that slot.

Must not touch files: what is on the volumes is none of its business.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.jobs import checking, undo
from hostagent.jobs.context import JobContext
from hostagent.jobs.discarding import for_plan, look_for_writes
from hostagent.jobs.pairs import SPLIT, note_copies_back, resync, show_pair, wait_copied
from hostagent.jobs.recovering import databases_of, judge, recover
from hostagent.jobs.restore import give_back, mirror_again, reclaim, release, resync_first
from hostagent.jobs.slots import named
from hostagent.jobs.steps import EndEarlyError, JobTable, Step
from hostagent.jobs.survey import choose_source, source_of, written_since

ASSUMED_BYTES_PER_S = 60 << 20
"""For the plan's estimate only: what a copy by bitmaps is taken to reach."""
ASSUMED_OVERHEAD_S = 5.0
ASKED_FOR = "the whole volume was asked for"

_RULES = {
    "in_sync": "the remote pair is in PAIR, so it is split; the second volume is re-synchronised "
    "from the third by comparing their bitmaps, then the first from the second by comparing theirs",
    "split": "the remote pair is split; the second volume is re-synchronised from the third "
    "by comparing their bitmaps, then the first from the second by comparing theirs",
}


# ---------------------------------------------------------------- before anything is touched


async def plan(context: JobContext) -> None:
    """Decide from where the restore starts; refuse what can't work. A dry run ends here."""
    data_set, record = context.data_set, context.record
    first = await show_pair(context, data_set.primary, data_set.remote_pair)
    second = await show_pair(context, data_set.secondary, data_set.remote_pair)
    if not first.peer_connected:
        raise RejectedError(
            Code.NO_PEER,
            f"{data_set.primary} has no connection to {data_set.secondary}",
            first.next_step or "bring the link between the controllers up",
        )
    source = await choose_source(context)
    undoes = record.params.get("undoes", "")
    if source.undo_of != undoes and undoes:
        raise RejectedError(
            Code.WRONG_STATE,
            f"'{source.pair}' no longer holds what was there before restore {undoes}",
            "see `trilun backup list`",
        )
    if first.state is m.PairState.PAIR:
        record.facts["start"] = "in_sync"
    elif first.state in SPLIT:
        record.facts["start"] = "split"
    else:
        raise RejectedError(
            Code.WRONG_STATE,
            f"remote pair '{first.name}' is {first.state.value}, a restore needs PAIR or PSUS"
            + (f": {first.reason}" if first.reason else ""),
            first.next_step or f"look at `trilun pair show {first.name}`",
        )
    look_for_writes(context, first)
    note_copies_back(context, first, anew=True)
    await undo.choose_slot(context, source, first)
    since_bytes = await written_since(context)
    record.plan = _plan_of(context, source, first.dirty_bytes, second.dirty_bytes, since_bytes)
    if record.params["dry_run"]:
        raise EndEarlyError
    if source.behind:
        record.message = f"waiting until {named(source)} is copied"
        await wait_copied(context, data_set.secondary, source.pair)


def _plan_of(
    context: JobContext,
    source: m.BackupInfo,
    first_bytes: int,
    second_bytes: int,
    since_bytes: int | None,
) -> m.RestorePlan:
    start = context.record.facts["start"]
    # The copy from the third marks what it writes for the pair with the first.
    union_bytes = first_bytes + second_bytes + source.dirty_bytes
    lost_bytes = first_bytes + source.dirty_bytes
    was, since = "at the backup", "since"
    if source.undo_of:
        was, since = f"before restore {source.undo_of}", "since that restore"
        lost_bytes = lost_bytes if since_bytes is None else first_bytes + since_bytes
    return m.RestorePlan(
        data_set=context.data_set.name,
        backup_pair=source.pair,
        backup_label=source.label,
        backup_at=source.taken_at,
        whole=context.record.params.get("why") or ASKED_FOR,
        second_union_bytes=source.dirty_bytes,
        files=[],
        missing=[],
        bytes_to_copy=source.dirty_bytes,
        direction=m.Direction.REVERSE,
        rule=_RULES[start],
        starting_point=start,
        meaning=f"the first volume becomes what it was {was}: everything written on it {since} "
        f"is lost, at most {lost_bytes} bytes in blocks",
        undo=undo.planned(context),
        undo_pair=undo.kept_in(context),
        overwritten_bytes=lost_bytes,
        **for_plan(context),
        union_bytes=union_bytes,
        expected_union_bytes=union_bytes,
        conflict=m.Conflict.OVERWRITE,
        eta_s=ASSUMED_OVERHEAD_S + (source.dirty_bytes + union_bytes) / ASSUMED_BYTES_PER_S,
        steps=WHOLE.names,
    )


# ---------------------------------------------------------------- the remote pair is split


async def split(context: JobContext) -> None:
    """Split the remote pair; hosts may not write to the second volume."""
    data_set, record = context.data_set, context.record
    await undo.keep(context)
    params = m.PairSplit(
        name=data_set.remote_pair,
        label=f"restore {record.id}",
        at=context.ports.clock.time(),
    )
    await context.ask(data_set.primary, "pair.split", params, m.PairInfo, "split")


async def undo_split(context: JobContext) -> None:
    """The first volume is the truth: bring the second back to it."""
    data_set, record = context.data_set, context.record
    if record.facts["start"] == "split" and not undo.mirrored(context):
        if record.facts.get("second.begun"):
            record.next_step = (
                f"{record.next_step}; the second volume may hold the backup's state: restore "
                "again, or bring it back with "
                f"`trilun pair resync {data_set.remote_pair} --forward`"
            ).removeprefix("; ")
        return
    await mirror_again(context, "resync-back")


# ---------------------------------------------------------------- the third, to the second


async def resync_second(context: JobContext) -> None:
    """Re-synchronise the second volume from the third."""
    source, facts, node = source_of(context), context.record.facts, context.data_set.secondary
    if not facts.get("second.begun"):
        local = await show_pair(context, node, source.pair)
        if local.state not in SPLIT or local.backup_number != source.number:
            raise RejectedError(
                Code.WRONG_STATE,
                f"{named(source)} was overwritten meanwhile",
                "choose another one: trilun backup list",
            )
        await undo.refuse_lost(context)
        facts["second.begun"] = True
        await context.save()
    local = await resync(context, node, source.pair, "second", m.Direction.REVERSE)
    facts["second_union"] = local.resync_union_bytes
    facts["second_payload"] = local.resync_payload_bytes


async def keep(context: JobContext) -> None:
    """Split the slot's pair again: the third stays the backup that it is."""
    await _keep(context, "keep")


async def _keep(context: JobContext, key: str) -> None:
    source = source_of(context)
    params = m.PairSplit(
        name=source.pair, label=source.label, at=source.taken_at, number=source.number
    )
    await context.ask(context.data_set.secondary, "pair.split", params, m.PairInfo, key)


async def undo_second(context: JobContext) -> None:
    """Keep the backup. A copy that has begun is seen through: half of it is no volume at all."""
    source, node = source_of(context), context.data_set.secondary
    if not context.record.facts.get("second.begun"):
        return
    local = await show_pair(context, node, source.pair)
    if local.state in SPLIT:
        return
    if local.state is not m.PairState.PAIR:
        await resync(context, node, source.pair, "second-back", m.Direction.REVERSE)
    await _keep(context, "keep-back")


# ---------------------------------------------------------------- done


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    record, facts, source = context.record, context.record.facts, source_of(context)
    now = context.ports.clock.time()
    record.receipt = m.Receipt(
        job=record.id,
        kind=record.kind,
        data_set=record.data_set,
        label=source.label,
        backup_pair=source.pair,
        backup_at=source.taken_at,
        whole=record.params.get("why") or ASKED_FOR,
        undo=undo.told(context),
        undo_pair=undo.kept_in(context),
        databases=databases_of(record),
        second_union_bytes=facts["second_union"],
        second_payload_bytes=facts["second_payload"],
        frozen_s=float(facts.get("released_s", 0.0)),
        duration_s=max(0.0, now - record.started_at),
        step_s=record.step_s,
        started_at=record.started_at,
        finished_at=now,
        **facts["wire"],
        **checking.told(context),
    )
    record.next_step = record.receipt.undo if undo.kept_in(context) else ""


WHOLE = JobTable(
    (
        Step("plan", plan),
        Step("mirror", undo.mirror, undo=undo.split_again),
        Step("fill-undo", undo.fill, undo=undo.free),
        Step("release", release, undo=reclaim),
        Step("split", split, undo=undo_split),
        Step("resync-second", resync_second, undo=undo_second),
        Step("verify-second", checking.verify_second),
        Step("keep", keep),
        Step("resync", resync_first),
        Step("verify-first", checking.verify_first),
        Step("reclaim", reclaim),
        Step("recover", recover),
        Step("receipt", receipt),
        Step("databases", judge, resume_at="recover"),
    ),
    ahead_of_undo=give_back,
)
