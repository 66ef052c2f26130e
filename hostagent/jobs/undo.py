"""What a restore of a whole volume overwrites is kept: a backup like any other, in a free slot.

Owns the choice whether and where, and the sentences about it. The rules:

  - The slot is filled while host 1 still writes, so that it has to wait for the split only.
  - It is split together with the remote pair, at one instant, behind host 1's release: then
    first, second and slot hold the same, and nothing that was acknowledged is missing.
  - A pair that was split before is brought in sync first, from the first volume, and split again
    where the job is undone. The slot that is restored from is the consistent copy meanwhile.
  - Nothing is overwritten before the slot is known to hold it.
  - A job that is undone gives the slot back.

Must not touch a slot that somebody else has taken meanwhile.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.undo import undo_label, undone_job
from hostagent.config import DataSetConfig
from hostagent.errors import FinalError
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import (
    SPLIT,
    follow_again,
    refuse_overwritten,
    resync,
    show_pair,
    show_volume,
)
from hostagent.jobs.slots import choose_for_undo
from hostagent.jobs.survey import survey

NONE_OF_FILES = "there is no undo: only `restore --whole` keeps what it overwrites"
_WITHOUT = "give up what is overwritten: --no-undo"
_IMPOSSIBLE = frozenset({Code.WRONG_STATE, Code.IN_USE})


def kept_in(context: JobContext) -> str:
    """The pair of the slot that keeps what is overwritten; empty when none does."""
    return str(context.record.facts.get("undo_pair", ""))


def mirrored(context: JobContext) -> bool:
    """Whether this job has brought a split pair in sync."""
    return bool(context.record.facts.get("mirrored"))


# ---------------------------------------------------------------- before anything is touched


async def choose_slot(context: JobContext, source: m.BackupInfo, first: m.PairInfo) -> None:
    """Choose the slot, or write down why there is none; RejectedError where one is required."""
    params, facts, data_set = context.record.params, context.record.facts, context.data_set
    policy = m.Undo(params.get("undo", m.Undo.REQUIRED))
    # An attempt before this one may have chosen another.
    facts.pop("undo_pair", None)
    facts.pop("no_undo", None)
    if policy is m.Undo.NEVER:
        facts["no_undo"] = "it was asked for without"
        return
    try:
        slots = await survey(context.ports.nodes, data_set)
        choice = choose_for_undo(slots, source, params.get("keep"), _create(data_set))
        if facts["start"] == "split":
            await _refuse_used_second(context)
    except RejectedError as exc:
        if exc.code not in _IMPOSSIBLE:
            raise
        if policy is m.Undo.REQUIRED:
            next_step = f"{exc.next_step}; or {_WITHOUT}"
            raise RejectedError(exc.code, exc.message, next_step) from exc
        facts["no_undo"] = f"{exc.message}; for one: {exc.next_step}"
        return
    facts["undo_pair"], facts["undo_number"] = choice.slot.pair, choice.number
    facts["undo_slot_number"], facts["undo_warning"] = choice.slot.number, choice.warning
    facts["was_split"] = {
        "label": first.split_label, "at": first.split_at, "number": first.backup_number,
    }  # fmt: skip


def _create(data_set: DataSetConfig) -> str:
    """The commands that make another slot."""
    secondary, name = data_set.secondary, f"{data_set.name}-undo"
    return (
        f"`trilun volume create {secondary}/{name} SIZE`, "
        f"`trilun pair create {name} {secondary}/{data_set.second} {secondary}/{name}`, "
        "and a [[data_set.backup]] with both in the configuration of both agents"
    )


async def _refuse_used_second(context: JobContext) -> None:
    """Bringing a split pair in sync overwrites the second volume: not beneath an initiator."""
    data_set = context.data_set
    second = await show_volume(context, data_set.secondary, data_set.second)
    if second.sessions:
        raise RejectedError(
            Code.IN_USE,
            f"the pair is split, and {second.sessions[0].initiator} uses volume "
            f"'{data_set.second}', which has to follow the first for that",
            "log it out there",
        )


def planned(context: JobContext) -> str:
    """For the plan: whether this restore can be undone."""
    facts, pair = context.record.facts, kept_in(context)
    if not pair:
        return _none(context)
    words = f"what the first volume holds now is kept in '{pair}' until it is dropped"
    if facts["start"] == "split":
        words += (
            "; for that the second volume is brought to what the first is: what was written on "
            "the second since the split is lost"
        )
    return f"{words}; {facts['undo_warning']}".removesuffix("; ")


def told(context: JobContext) -> str:
    """For the receipt: how this restore is undone."""
    job = context.record.id
    undoes = context.record.params.get("undoes", "")
    words = _none(context)
    if kept_in(context):
        words = (
            f"`trilun restore undo {job}` brings back what was overwritten, until "
            f"`trilun restore drop-undo {job}` gives it up"
        )
    if undoes:
        words += (
            f"; what was there before {undoes} is kept, too: `trilun restore drop-undo {undoes}` "
            "frees its slot"
        )
    return words


def _none(context: JobContext) -> str:
    why = context.record.facts.get("no_undo")
    # A restore of files that became one of the whole volume has not been asked.
    return f"there is no undo: {why}" if why else NONE_OF_FILES


# ---------------------------------------------------------------- while host 1 still writes


async def mirror(context: JobContext) -> None:
    """Bring a pair that was split in sync, from the first volume."""
    facts, data_set = context.record.facts, context.data_set
    if not kept_in(context) or facts["start"] != "split":
        return
    facts["mirrored"] = True
    await context.save()
    await resync(context, data_set.primary, data_set.remote_pair, "mirror", m.Direction.FORWARD)


async def split_again(context: JobContext) -> None:
    """The pair was split when the job began, and is left so, under its old label."""
    if not mirrored(context):
        return
    data_set = context.data_set
    pair = await show_pair(context, data_set.primary, data_set.remote_pair)
    if pair.state in SPLIT:
        return
    await refuse_overwritten(context)
    if pair.state is not m.PairState.PAIR:
        node = data_set.primary
        await resync(context, node, pair.name, "mirror-back", m.Direction.FORWARD)
    params = m.PairSplit(name=pair.name, **context.record.facts["was_split"])
    await context.ask(data_set.primary, "pair.split", params, m.PairInfo, "split-back")


async def fill(context: JobContext) -> None:
    """Let the slot's third volume follow the second; a backup it holds is gone from here on."""
    pair, record, node = kept_in(context), context.record, context.data_set.secondary
    if not pair:
        return
    local = await show_pair(context, node, pair)
    if local.state is m.PairState.PAIR:
        return
    if local.state in SPLIT and local.backup_number != record.facts["undo_slot_number"]:
        raise _taken(pair)
    record.message = record.facts["undo_warning"]
    if local.state is not m.PairState.COPY:
        record.facts["fill.asked"] = False
    try:
        await resync(context, node, pair, "fill", m.Direction.FORWARD)
    except RejectedError as exc:
        next_step = f"{exc.next_step}; or {_WITHOUT}".removeprefix("; or ")
        raise RejectedError(exc.code, exc.message, next_step) from exc


async def free(context: JobContext) -> None:
    """Nothing was overwritten: the slot follows the second volume again."""
    pair, node = kept_in(context), context.data_set.secondary
    if not pair:
        return
    if _is_ours(context, await show_pair(context, node, pair)):
        await _refuse_needed(context, pair)
        await follow_again(context, pair, "free")


async def _refuse_needed(context: JobContext, pair: str) -> None:
    """FinalError where the slot may have the only copy of what the first volume held."""
    job = context.record.id
    try:
        await refuse_overwritten(context)
    except FinalError as exc:
        raise FinalError(
            f"{exc.message}: slot '{pair}' keeps that",
            f"`trilun restore undo {job}` brings it back, once the pair is in PAIR; "
            f"`trilun restore drop-undo {job}` gives it up",
            exc.code,
        ) from exc


# ---------------------------------------------------------------- host 1 has let go


async def keep(context: JobContext) -> None:
    """Split the slot and the remote pair at one instant of the stream."""
    pair, facts, data_set = kept_in(context), context.record.facts, context.data_set
    if not pair:
        return
    if _is_ours(context, await show_pair(context, data_set.secondary, pair)):
        return
    facts.setdefault("undo_at", context.ports.clock.time())
    await context.save()
    params = m.BackupMark(
        remote_pair=data_set.remote_pair,
        local_pair=pair,
        label=undo_label(context.record.id),
        split_remote=True,
        at=facts["undo_at"],
        number=facts["undo_number"],
    )
    await context.ask(data_set.primary, "backup.mark", params, m.PairInfo, "undo-mark")


async def refuse_lost(context: JobContext) -> None:
    """Look, before anything is overwritten, that the slot holds it."""
    pair = kept_in(context)
    if pair and not _is_ours(context, await show_pair(context, context.data_set.secondary, pair)):
        raise _taken(pair)


def _is_ours(context: JobContext, local: m.PairInfo) -> bool:
    return (
        local.state in SPLIT
        and not local.guarded
        and undone_job(local.split_label) == context.record.id
    )


def _taken(pair: str) -> RejectedError:
    return RejectedError(
        Code.WRONG_STATE,
        f"slot '{pair}', which was to keep what is overwritten, was taken by somebody else",
        f"restore again, or {_WITHOUT}",
    )
