"""The backup: one instant of the first volume, kept in a third.

Owns the table of steps. The local pair is re-synchronised *before* the freeze, so that the file
system stands still only for the split itself; a quick backup has that begun only, and what differs
is copied behind the split. If the agent dies between freeze and mark, nobody
can say whether the mark hit the freeze: the job then goes back to the beginning. A mark that
was in vain is taken back, so that nobody takes that slot for a backup.
"""

from __future__ import annotations

from typing import Any

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.undo import undone_job
from hostagent.errors import HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import SPLIT, follow_again, resync, show_pair
from hostagent.jobs.recovering import databases_of, remember
from hostagent.jobs.slots import choose_for_backup, named
from hostagent.jobs.steps import JobTable, Step
from hostagent.jobs.survey import survey


async def check(context: JobContext) -> None:
    """The remote pair must be in PAIR, and both controllers must see each other."""
    data_set = context.data_set
    remote = await show_pair(context, data_set.primary, data_set.remote_pair)
    if not remote.peer_connected:
        raise RejectedError(
            Code.NO_PEER,
            f"{data_set.primary} has no connection to {data_set.secondary}",
            remote.next_step or "bring the link between the controllers up",
        )
    again = context.facts.get("mark.asked") and remote.state is m.PairState.COPY
    if again or _split_by_us(context, remote):
        remote = await _mirror_again(context, "resync-remote")
    if remote.state is not m.PairState.PAIR:
        raise RejectedError(
            Code.WRONG_STATE,
            f"remote pair '{remote.name}' is {remote.state.value}, a backup needs PAIR"
            + (f": {remote.reason}" if remote.reason else ""),
            remote.next_step or f"run `trilun pair resync {remote.name}` and wait for PAIR",
        )


def _split_by_us(context: JobContext, remote: m.PairInfo) -> bool:
    """Whether the mark of an earlier life of this job has split the remote pair."""
    facts = context.facts
    return (
        bool(facts.get("mark.asked"))
        and remote.state in SPLIT
        and remote.split_at == facts.get("at")
    )


async def _mirror_again(context: JobContext, key: str) -> m.PairInfo:
    data_set = context.data_set
    return await resync(context, data_set.primary, data_set.remote_pair, key, m.Direction.FORWARD)


async def choose(context: JobContext) -> None:
    """Choose the slot; a job that goes on keeps the one it has begun to fill."""
    facts = context.facts
    if "pair" in facts:
        return
    slots = await survey(context.ports.nodes, context.data_set)
    choice = choose_for_backup(slots, context.record.params.get("keep"))
    facts["pair"], facts["number"] = choice.slot.pair, choice.number
    facts["replaced"] = named(choice.slot) if choice.slot.is_backup else ""
    facts["warning"] = choice.warning


async def resync_local(context: JobContext) -> None:
    """Bring the slot's third volume up to date; a backup it holds is gone from here on."""
    record, node = context.record, context.data_set.secondary
    local = await show_pair(context, node, context.facts["pair"])
    if local.state is m.PairState.PAIR:
        return
    if local.state in SPLIT and undone_job(local.split_label):
        # A restore on the other host has taken the slot since it was chosen.
        raise RejectedError(
            Code.WRONG_STATE,
            f"'{local.name}' keeps what a restore has overwritten since this backup began",
            "take the backup again",
        )
    record.message = context.facts["warning"]
    if local.state is not m.PairState.COPY:
        context.facts["resync.asked"] = False
    quick = record.params.get("quick", False)
    through = await resync(context, node, local.name, "resync", m.Direction.FORWARD, begun=quick)
    context.facts["copied"] = {
        "union_bytes": through.resync_union_bytes,
        "payload_bytes": through.resync_payload_bytes,
    }


async def freeze(context: JobContext) -> None:
    """Write everything out and stop writes, for a few seconds at most."""
    context.facts["at"] = context.ports.clock.time()
    if context.record.params["quiesce"]:
        data_set = context.data_set
        wanted = {data_set.name: data_set.freeze_ttl_s}
        remember(context, (await context.ports.first.freeze(wanted))[data_set.name])


async def mark(context: JobContext) -> None:
    """Split the slot's pair at this instant of the remote stream; the remote one too, if asked."""
    data_set, facts, asked = context.data_set, context.facts, context.record.params
    params = m.BackupMark(
        remote_pair=data_set.remote_pair,
        local_pair=facts["pair"],
        label=asked["label"],
        split_remote=asked.get("split_remote", False),
        quick=asked.get("quick", False),
        at=facts["at"],
        number=facts["number"],
    )
    facts["mark.asked"] = True
    await context.save()
    await context.ask(data_set.primary, "backup.mark", params, m.PairInfo, "mark")
    if asked["quiesce"] and not await context.ports.first.still_frozen(data_set.name):
        raise HostError(
            "the file system thawed before the split: by itself after "
            f"{data_set.freeze_ttl_s:g} s, or by somebody else",
            "look at the link between the controllers, or raise freeze_ttl_s; then try again",
        )


async def unmark(context: JobContext) -> None:
    """What was split is no backup: let hosts write, and mirror again."""
    await thaw(context)
    data_set, facts = context.data_set, context.facts
    if not facts.get("mark.asked"):
        return
    await mirror_split_remote(context)
    local = await show_pair(context, data_set.secondary, facts["pair"])
    # A restore on the other host may have taken the slot since, under the same number.
    ours = (facts["number"], facts["at"], context.record.params["label"])
    if local.state in SPLIT and (local.backup_number, local.split_at, local.split_label) == ours:
        await follow_again(context, local.name, "resync-back")


async def mirror_split_remote(context: JobContext) -> None:
    """Where a mark of this job has split the remote pair: mirror again."""
    data_set = context.data_set
    remote = await show_pair(context, data_set.primary, data_set.remote_pair)
    if _split_by_us(context, remote):
        await _mirror_again(context, "remote-back")


async def thaw(context: JobContext) -> None:
    """Let writes go on."""
    frozen_s = await context.ports.first.thaw(context.data_set.name)
    if frozen_s:
        context.facts["frozen_s"] = frozen_s


def copied_in(parts: list[dict[str, Any]]) -> dict[str, int]:
    """What it took to bring the slots of these parts up to date, for the receipt."""
    copied = [facts.get("copied", {}) for facts in parts]
    return {key: sum(one.get(key, 0) for one in copied) for key in ("union_bytes", "payload_bytes")}


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    # It is a backup from here on: that it can't be looked at must not be its end.
    await context.commit(True)
    record, facts = context.record, context.facts
    local = await show_pair(context, context.data_set.secondary, facts["pair"])
    if local.behind:
        record.message = "it can be looked into and files restored from; it is being copied still"
        record.next_step = f"for the end of the copy: trilun pair wait {local.name} PSUS"
    now = context.ports.clock.time()
    record.receipt = m.Receipt(
        job=record.id,
        kind=record.kind,
        data_set=record.data_set,
        label=record.params["label"],
        backup_pair=facts["pair"],
        backup_at=facts["at"],
        replaced=facts["replaced"],
        databases=databases_of(record),
        frozen_s=float(facts.get("frozen_s", 0.0)),
        step_s=dict(record.step_s),
        **copied_in([facts]),
        duration_s=max(0.0, now - record.started_at),
        started_at=record.started_at,
        finished_at=now,
    )


BACKUP = JobTable(
    (
        Step("check", check),
        Step("choose", choose),
        Step("resync", resync_local),
        Step("freeze", freeze, undo=thaw, resume_at="check"),
        Step("mark", mark, undo=unmark, resume_at="check"),
        Step("thaw", thaw),
        Step("receipt", receipt),
    )
)
