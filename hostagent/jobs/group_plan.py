"""The plan of a restore of several data sets: all of it is made before any of them is touched.

Owns what is refused there, and the plan that operators see. Must not change anything. Fails with
RejectedError that names the data set.
"""

from __future__ import annotations

import asyncio

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.jobs import undo, whole
from hostagent.jobs.context import JobContext
from hostagent.jobs.discarding import NEEDS
from hostagent.jobs.instants import choose_instant
from hostagent.jobs.member import Member, each, members
from hostagent.jobs.pairs import wait_copied
from hostagent.jobs.slots import named
from hostagent.jobs.steps import EndEarlyError
from hostagent.jobs.survey import source_of, survey


async def plan(context: JobContext) -> None:
    """Choose backups of one instant, and plan the restore of each. A dry run ends here."""
    record, parts = context.record, members(context)
    await _refuse_other_pairs(context)
    found = await asyncio.gather(*(survey(part.ports.nodes, part.data_set) for part in parts))
    slots = {part.data_set.name: mine for part, mine in zip(parts, found, strict=True)}
    chosen = choose_instant(slots, record.params["from_backup"])
    for part in parts:
        source = chosen[part.data_set.name]
        part.record.params = {**record.params, "from_backup": source.pair, "dry_run": True}
    await each(parts, _plan_one)
    _refuse_starts(context, parts)
    _refuse_writes(context, parts)
    record.plan = _together(context, parts)
    if record.params["dry_run"]:
        raise EndEarlyError
    await each(parts, _until_copied)


async def _refuse_other_pairs(context: JobContext) -> None:
    """The group may have been made anew: what is split and copied would be another's."""
    name, node = context.record.data_set, context.record.params["node"]
    group = await context.look(node, "group.show", m.Named(name=name), m.GroupInfo)
    ours = {data_set.remote_pair for data_set in context.data_sets}
    if set(group.pairs) != ours:
        raise RejectedError(
            Code.WRONG_STATE,
            f"group '{name}' has other pairs now: {', '.join(group.pairs)}",
            "give the command again",
        )


async def _plan_one(part: Member) -> None:
    try:
        await whole.plan(part)
    except EndEarlyError:
        return
    raise AssertionError("a dry run ends early")


def _refuse_starts(context: JobContext, parts: list[Member]) -> None:
    """One instant for all: they are all in sync, or were all split before."""
    group = context.record.data_set
    split = [part.data_set.remote_pair for part in parts if part.facts["start"] == "split"]
    if not split:
        return
    in_sync = f"bring them in sync: `trilun group resync {group}`, `trilun group wait {group} PAIR`"
    if len(split) < len(parts):
        raise RejectedError(
            Code.WRONG_STATE,
            f"some pairs of group '{group}' are split, the others are not: {', '.join(split)}",
            in_sync,
        )
    if undo.kept_in(parts[0]):
        raise RejectedError(
            Code.WRONG_STATE,
            f"the pairs of group '{group}' are split, and what is overwritten can't be kept",
            f"{in_sync}; or give up what is overwritten: --no-undo",
        )


def _refuse_writes(context: JobContext, parts: list[Member]) -> None:
    """What was written behind the split is lost where that is allowed, of none before it is."""
    needs = [part.facts[NEEDS] for part in parts if part.facts[NEEDS]]
    if needs and not context.record.params["dry_run"]:
        group = context.record.data_set
        raise RejectedError(
            Code.WRONG_STATE,
            f"group '{group}' can't be restored without {'; '.join(needs)}",
            f"allow it; or keep those writes: `trilun group resync {group} --forward`, "
            f"`trilun group wait {group} PAIR`, then restore",
        )


async def _until_copied(part: Member) -> None:
    source = source_of(part)
    if source.behind:
        part.record.message = f"waiting until {named(source)} is copied"
        await wait_copied(part, part.data_set.secondary, source.pair)


def _together(context: JobContext, parts: list[Member]) -> m.RestorePlan:
    plans = [part.record.plan for part in parts if part.record.plan is not None]
    first, deadline_s = plans[0], context.record.params["deadline_s"]
    steps = context.steps
    own = [each.model_copy(update={"steps": steps}) for each in plans]
    overwritten = sum(each.overwritten_bytes for each in plans)
    return first.model_copy(
        update={
            "data_set": context.record.data_set,
            "backup_pair": "",
            "undo": "; ".join(f"'{each.data_set}': {each.undo}" for each in plans),
            "undo_pair": "",
            "second_union_bytes": sum(each.second_union_bytes for each in plans),
            "bytes_to_copy": sum(each.bytes_to_copy for each in plans),
            "meaning": "the first volumes become what they were at one instant: everything "
            f"written on them since is lost, at most {overwritten} bytes in blocks. If not all "
            f"second volumes hold that within {deadline_s:g} s, nothing is",
            "overwritten_bytes": overwritten,
            "discarded_bytes": sum(each.discarded_bytes for each in plans),
            "needs": "; ".join(each.needs for each in plans if each.needs),
            "union_bytes": sum(each.union_bytes for each in plans),
            "expected_union_bytes": sum(each.expected_union_bytes for each in plans),
            "eta_s": sum(each.eta_s for each in plans),
            "steps": steps,
            "members": own,
        }
    )


def settle_next_steps(context: JobContext, parts: list[Member]) -> None:
    """What the undo of each has to say is the whole job's next step."""
    said = context.record.next_step
    more = [part.record.next_step.removeprefix(said).removeprefix("; ") for part in parts]
    words = [said, *dict.fromkeys(more)]
    context.record.next_step = "; ".join(word for word in words if word)
