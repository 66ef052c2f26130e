"""The backup of a group: several data sets at one instant, in one third volume each.

Owns the table of steps. Each step does for every data set what `backup` does for one; the two
that have to be one for all are the mark, which the primary puts into the stream for all pairs at
once, and `keep`, by which the secondary makes backups of what was split: all of them in one
commit. Before that none of them is one, whatever fails, and they follow again. Behind it only
forward is possible: half of a backup must not be undone.
"""

from __future__ import annotations

import asyncio

from controller.api import messages as m
from controller.api.errors import RejectedError
from controller.api.groups import LocalMark
from hostagent.errors import FinalError, HostError
from hostagent.jobs import backup
from hostagent.jobs.context import JobContext
from hostagent.jobs.recovering import databases_in, remember
from hostagent.jobs.retry import UNANSWERED
from hostagent.jobs.steps import JobTable, Step

DEADLINE_S = 30.0
"""For the confirmations, where no freeze bounds it."""


async def check(context: JobContext) -> None:
    """Every remote pair must be in PAIR, and the controllers must see each other."""
    for part in context.parts():
        await backup.check(part)


async def choose(context: JobContext) -> None:
    """Choose a slot of each data set, before any of them is touched."""
    for part in context.parts():
        await backup.choose(part)


async def resync(context: JobContext) -> None:
    """Bring the slots' third volumes up to date."""
    for part in context.parts():
        await backup.resync_local(part)


async def freeze(context: JobContext) -> None:
    """Let all file systems stand still, for a few seconds at most."""
    parts, at = context.parts(), context.ports.clock.time()
    for part in parts:
        part.facts["at"] = at
    if context.record.params["quiesce"]:
        wanted = {entry.name: entry.freeze_ttl_s for entry in context.data_sets}
        found = await context.ports.first.freeze(wanted)
        for part in parts:
            remember(part, found[part.data_set.name])


async def mark(context: JobContext) -> None:
    """Split the slots' pairs at this instant of the stream; the remote ones too, if asked."""
    record, parts = context.record, context.parts()
    asked = record.params
    for part in parts:
        part.facts["mark.asked"] = True
    record.facts["instant"] = context.request_id("mark")
    await context.save()
    params = m.GroupMark(
        name=record.data_set,
        marks=[
            LocalMark(
                remote_pair=part.data_set.remote_pair,
                local_pair=part.facts["pair"],
                number=part.facts["number"],
            )
            for part in parts
        ],
        instant=record.facts["instant"],
        label=asked["label"],
        split_remote=asked["split_remote"],
        at=parts[0].facts["at"],
        deadline_s=_deadline_s(context),
    )
    try:
        await context.ask(asked["node"], "group.mark", params, m.GroupInfo, "mark")
    except RejectedError as exc:
        if exc.code in UNANSWERED:
            raise
        # Some were split, and follow again: another mark would meet them on their way.
        raise FinalError(exc.message, exc.next_step, exc.code) from exc
    if asked["quiesce"]:
        await _check_frozen(context)


def _deadline_s(context: JobContext) -> float:
    asked = context.record.params
    if asked["deadline_s"] is not None:
        return float(asked["deadline_s"])
    if asked["quiesce"]:
        return min(entry.freeze_ttl_s for entry in context.data_sets)
    return DEADLINE_S


async def _check_frozen(context: JobContext) -> None:
    first = context.ports.first
    for entry in context.data_sets:
        if not await first.still_frozen(entry.name):
            raise HostError(
                f"the file system of '{entry.name}' thawed before all were split: by itself after "
                f"{entry.freeze_ttl_s:g} s, or by somebody else",
                "look at the link between the controllers, or raise freeze_ttl_s; then try again",
            )


async def unmark(context: JobContext) -> None:
    """What was split is no backup: let hosts write, and mirror again."""
    await thaw(context)
    if not context.record.facts.get("instant"):
        return
    for part in context.parts():
        # The remote pairs first: what was split from the second stays one point in time until
        # the second is one again (law L7).
        await backup.mirror_split_remote(part)
    await _settle(context, "give-up", keep=False)


async def _settle(context: JobContext, key: str, *, keep: bool) -> None:
    params = m.BackupSettle(
        instant=context.record.facts["instant"],
        local_pairs=[part.facts["pair"] for part in context.parts()],
        label=context.record.params["label"],
        keep=keep,
    )
    await context.ask(context.data_set.secondary, "backup.settle", params, m.BackupSettled, key)


async def thaw(context: JobContext) -> None:
    """Let writes go on everywhere, whatever becomes of one."""
    thaws = [backup.thaw(part) for part in context.parts()]
    for outcome in await asyncio.gather(*thaws, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def keep(context: JobContext) -> None:
    """Make what was split one backup."""
    await _settle(context, "keep", keep=True)
    await context.commit(committed=True)


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    record, parts = context.record, context.parts()
    now = context.ports.clock.time()
    members = [
        m.MemberBackup(
            data_set=part.data_set.name,
            pair=part.facts["pair"],
            replaced=part.facts["replaced"],
            frozen_s=float(part.facts.get("frozen_s", 0.0)),
            databases=databases_in(part.facts),
        )
        for part in parts
    ]
    record.receipt = m.Receipt(
        job=record.id,
        kind=record.kind,
        data_set=record.data_set,
        label=record.params["label"],
        backup_at=parts[0].facts["at"],
        members=members,
        databases=[database for member in members for database in member.databases],
        frozen_s=max(member.frozen_s for member in members),
        step_s=dict(record.step_s),
        **backup.copied_in([part.facts for part in parts]),
        duration_s=max(0.0, now - record.started_at),
        started_at=record.started_at,
        finished_at=now,
    )


GROUP_BACKUP = JobTable(
    (
        Step("check", check),
        Step("choose", choose),
        Step("resync", resync),
        Step("freeze", freeze, undo=thaw, resume_at="check"),
        Step("mark", mark, undo=unmark, resume_at="check"),
        Step("thaw", thaw),
        Step("keep", keep),
        Step("receipt", receipt),
    )
)
