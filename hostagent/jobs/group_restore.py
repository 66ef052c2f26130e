"""The restore of a group: the whole volumes of several data sets go back to one instant, or none.

Owns the table of steps. Each step does for every data set what `whole` does for one, and goes on
when all of them have done it. The rules:

  - All backups are of one instant, and every data set's plan is made before any is touched.
  - All remote pairs are split at one instant, with what is kept for an undo.
  - The barrier is before `resync`: every second volume holds its backup, and every backup is one
    again. What fails before it, or isn't there by the deadline, undoes all of them.
  - There the controller begins all reverse copies, or refuses all. Once one has begun, only
    forward is possible, and one that fails doesn't stop the others.

Must not touch files: what is on the volumes is none of its business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.groups import LocalMark
from controller.api.undo import undo_label
from hostagent.errors import FinalError, as_rejected
from hostagent.jobs import checking, undo, whole
from hostagent.jobs.context import JobContext
from hostagent.jobs.group_plan import plan, settle_next_steps
from hostagent.jobs.member import Member, each, members, together
from hostagent.jobs.pairs import is_untouched, refuse_overwritten
from hostagent.jobs.recovering import databases_in, judge, recover, start_again
from hostagent.jobs.restore import release, resync_first
from hostagent.jobs.retry import UNANSWERED
from hostagent.jobs.steps import JobTable, Step, StepWork

CONFIRM_S = 30.0
"""For the confirmations of a split, at most."""

# ---------------------------------------------------------------- the deadline


def _left_s(context: JobContext) -> float:
    """Seconds until the deadline; raises FinalError behind it."""
    left_s = float(context.record.facts["deadline_at"]) - context.ports.clock.time()
    if left_s <= 0:
        raise _late(context)
    return left_s


def _late(context: JobContext) -> FinalError:
    return FinalError(
        f"not all data sets were ready within {context.record.params['deadline_s']:g} s",
        f"`trilun job show {context.record.id}` has what each step took; restore again, with a "
        "longer --deadline",
        Code.TIMEOUT,
    )


@asynccontextmanager
async def _in_time(context: JobContext) -> AsyncIterator[None]:
    bound = asyncio.timeout(_left_s(context))
    try:
        async with bound:
            yield
    except TimeoutError:
        # The work's own would be an error of the operating system.
        if bound.expired():
            raise _late(context) from None
        raise


def _bounded(work: StepWork) -> StepWork:
    async def run(context: JobContext) -> None:
        async with _in_time(context):
            await work(context)

    return run


# ---------------------------------------------------------------- while host 1 still writes


async def fill(context: JobContext) -> None:
    """Let the slots for the undo follow the second volumes."""
    await each(members(context), undo.fill)


async def free(context: JobContext) -> None:
    """Nothing was overwritten: the slots follow again."""
    await each(members(context), undo.free)


async def release_all(context: JobContext) -> None:
    """Host 1 unmounts and detaches all first volumes; the deadline begins."""
    facts = context.record.facts
    # The machine's time, for it has to outlive the agent: where somebody sets it, that ends in an
    # undo too early or too late, and no more.
    facts.setdefault(
        "deadline_at", context.ports.clock.time() + context.record.params["deadline_s"]
    )
    await context.save()
    held: list[Member] = []

    async def let_go(part: Member) -> None:
        try:
            await release(part)
        except RejectedError as exc:
            if exc.code is not Code.IN_USE:
                raise
            held.append(part)

    async with _in_time(context):
        await each(members(context), let_go)
        # By a database of another data set, which has been stopped now.
        await each(held, release)


async def reclaim(context: JobContext) -> None:
    """Host 1 mounts all of them again; where nothing was restored its databases start, too.

    No database starts before every volume had its chance: it may use several.
    """
    parts = members(context)
    outcomes = await asyncio.gather(*(_mount(part) for part in parts), return_exceptions=True)
    failed: list[tuple[str, RejectedError]] = []
    there: dict[str, m.HostFs] = {}
    for part, outcome in zip(parts, outcomes, strict=True):
        if isinstance(outcome, m.HostFs):
            there[part.part] = outcome
        elif isinstance(outcome, RejectedError | OSError):
            failed.append((part.data_set.name, as_rejected(outcome)))
        else:
            raise outcome
    if not context.committed:
        await each([p for p in parts if p.part in there], lambda p: start_again(p, there[p.part]))
    if failed:
        raise together(failed)


async def give_back(context: JobContext) -> None:
    """Host 1 gets its volumes before all else is undone, which may have to wait for the link."""
    parts = members(context)
    if any("released_at" in part.facts for part in parts):
        await each(parts, refuse_overwritten)
        await reclaim(context)


async def _mount(part: Member) -> m.HostFs:
    params = m.FsReclaim(data_set=part.data_set.name, job=part.record.id)
    there = await part.ask(part.data_set.host1, "fs.reclaim", params, m.HostFs, "reclaim")
    released_at = part.facts.get("released_at")
    if released_at is not None and "released_s" not in part.facts:
        part.facts["released_s"] = max(0.0, part.ports.clock.time() - released_at)
    return there


# ---------------------------------------------------------------- one instant


async def split(context: JobContext) -> None:
    """Split all remote pairs, and what is kept for an undo, at one instant."""
    record, parts = context.record, members(context)
    record.facts.setdefault("split_at", context.ports.clock.time())
    if undo.kept_in(parts[0]):
        await _mark(context, parts)
        return
    params = m.GroupSplit(
        name=record.data_set,
        label=f"restore {record.id}",
        at=record.facts["split_at"],
        deadline_s=min(CONFIRM_S, _left_s(context)),
    )
    await context.ask(record.params["node"], "group.split", params, m.GroupInfo, "split")


async def _mark(context: JobContext, parts: list[Member]) -> None:
    record = context.record
    record.facts["instant"] = context.request_id("mark")
    await context.save()
    params = m.GroupMark(
        name=record.data_set,
        marks=[
            LocalMark(
                remote_pair=part.data_set.remote_pair,
                local_pair=undo.kept_in(part),
                number=part.facts["undo_number"],
            )
            for part in parts
        ],
        instant=record.facts["instant"],
        label=undo_label(record.id),
        split_remote=True,
        at=record.facts["split_at"],
        deadline_s=min(CONFIRM_S, _left_s(context)),
    )
    try:
        await context.ask(record.params["node"], "group.mark", params, m.GroupInfo, "mark")
    except RejectedError as exc:
        if exc.code in UNANSWERED:
            raise
        # Some were split, and follow again: another mark would meet them on their way.
        raise FinalError(exc.message, exc.next_step, exc.code) from exc
    await _settle(context, "keep-undo", keep=True)


async def _settle(context: JobContext, key: str, *, keep: bool) -> None:
    params = m.BackupSettle(
        instant=context.record.facts["instant"],
        local_pairs=[undo.kept_in(part) for part in members(context)],
        label=undo_label(context.record.id),
        keep=keep,
    )
    await context.ask(context.data_set.secondary, "backup.settle", params, m.BackupSettled, key)


async def undo_split(context: JobContext) -> None:
    """The first volumes are the truth: bring the second ones back to them."""
    parts = members(context)
    await each(parts, whole.undo_split)
    settle_next_steps(context, parts)
    # What was split from a second volume stays one point in time until that is one again (L7).
    if context.record.facts.get("instant"):
        await _settle(context, "give-up", keep=False)


# ---------------------------------------------------------------- the thirds, to the seconds


async def resync_second(context: JobContext) -> None:
    """Re-synchronise all second volumes from their thirds."""
    await each(members(context), whole.resync_second)


async def undo_second(context: JobContext) -> None:
    """Keep the backups; a copy that has begun is seen through."""
    await each(members(context), whole.undo_second)


async def verify_second(context: JobContext) -> None:
    """Compare all second volumes with their thirds, where that was asked for."""
    await each(members(context), checking.verify_second)


async def keep(context: JobContext) -> None:
    """Split the slots' pairs again: the thirds stay the backups that they are."""
    await each(members(context), whole.keep)


# ---------------------------------------------------------------- the barrier


async def resync(context: JobContext) -> None:
    """Re-synchronise all first volumes from the second ones: only forward from here."""
    parts, facts = members(context), context.record.facts
    if not context.committed:
        _left_s(context)
        # Said before it is asked: if the answer is lost, nobody may think that it wasn't begun.
        await context.commit(True)
    if not facts.get("begun"):
        await _begin(context, parts)
    await each(parts, resync_first)


async def _begin(context: JobContext, parts: list[Member]) -> None:
    """Begin all copies back, or none: what the controller refuses, it refuses for all."""
    record = context.record
    params = m.GroupResync(name=record.data_set, direction=m.Direction.REVERSE)
    begun = parts
    try:
        await context.ask(record.params["node"], "group.resync", params, m.GroupInfo, "resync")
    except RejectedError as exc:
        if exc.code in UNANSWERED:
            raise
        # A link that breaks while it is being agreed is an answer, and no end of it.
        begun = [part for part in parts if not await is_untouched(part)]
        if not begun:
            await context.commit(False)
            raise
    for part in begun:
        part.facts["resync.asked"] = True
    record.facts["begun"] = True
    await context.save()


# ---------------------------------------------------------------- behind it


async def verify_first(context: JobContext) -> None:
    """Compare all first volumes with the second ones, where that was asked for."""
    await each(members(context), checking.verify_first)


async def recover_all(context: JobContext) -> None:
    """Start, recover and check every database, when all volumes are there."""
    await each(members(context), recover)


async def judge_all(context: JobContext) -> None:
    """The last step, behind the receipt: a database that isn't good fails the job."""
    await each(members(context), judge)


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    record, parts = context.record, members(context)
    receipts: list[m.Receipt] = []
    for part in parts:
        await whole.receipt(part)
        assert part.record.receipt is not None
        receipts.append(part.record.receipt)
    restored = [
        m.MemberRestore(
            data_set=part.data_set.name,
            backup_pair=own.backup_pair,
            second_union_bytes=own.second_union_bytes,
            union_bytes=own.union_bytes,
            discarded_bytes=own.discarded_bytes,
            payload_bytes=own.payload_bytes,
            wire_bytes=own.wire_bytes,
            undo=own.undo,
            undo_pair=own.undo_pair,
            released_s=own.frozen_s,
            verified=own.verified,
            compared_bytes=own.compared_bytes,
            databases=databases_in(part.facts),
        )
        for part, own in zip(parts, receipts, strict=True)
    ]
    first = receipts[0]
    record.receipt = first.model_copy(
        update={
            "data_set": record.data_set,
            "backup_pair": "",
            "undo_pair": "",
            "restored": restored,
            "databases": [database for one in restored for database in one.databases],
            "frozen_s": max(one.frozen_s for one in receipts),
            "step_s": dict(record.step_s),
            **{name: sum(getattr(one, name) for one in receipts) for name in SUMMED},
        }
    )
    record.next_step = first.undo if first.undo_pair else ""


SUMMED = (
    "second_union_bytes",
    "second_payload_bytes",
    "union_bytes",
    "discarded_bytes",
    "payload_bytes",
    "wire_bytes",
    "compared_bytes",
)

GROUP_RESTORE = JobTable(
    (
        Step("plan", plan),
        Step("fill-undo", fill, undo=free),
        Step("release", release_all, undo=reclaim),
        Step("split", _bounded(split), undo=undo_split),
        Step("resync-second", _bounded(resync_second), undo=undo_second),
        Step("verify-second", _bounded(verify_second)),
        Step("keep", _bounded(keep)),
        Step("resync", resync),
        Step("verify-first", verify_first),
        Step("reclaim", reclaim),
        Step("recover", recover_all),
        Step("receipt", receipt),
        Step("databases", judge_all, resume_at="recover"),
    ),
    ahead_of_undo=give_back,
)
