"""The backup: one instant of the first volume, kept in the third.

Owns the table of steps. The local pair is re-synchronised *before* the freeze, so that the file
system stands still only for the split itself. If the agent dies between freeze and mark, nobody
can say whether the mark hit the freeze: the job then goes back to the beginning.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.errors import HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import COPYING, resync, show_pair
from hostagent.jobs.steps import JobTable, Step

FREEZE_TTL_S = 10.0


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
    if remote.state is not m.PairState.PAIR:
        raise RejectedError(
            Code.WRONG_STATE,
            f"remote pair '{remote.name}' is {remote.state.value}, a backup needs PAIR"
            + (f": {remote.reason}" if remote.reason else ""),
            remote.next_step or f"run `trilun pair resync {remote.name}` and wait for PAIR",
        )


async def resync_local(context: JobContext) -> None:
    """Bring the third volume up to date, if an earlier backup split it."""
    data_set = context.data_set
    local = await show_pair(context, data_set.secondary, data_set.local_pair)
    if local.state is m.PairState.PAIR:
        return
    if local.state is m.PairState.SMPL:
        raise RejectedError(
            Code.WRONG_STATE,
            f"local pair '{local.name}' is SMPL",
            f"create it on {data_set.secondary} with `trilun pair create`",
        )
    if local.state not in COPYING:
        context.record.facts["resync.asked"] = False
    await resync(context, data_set.secondary, local.name, "resync", m.Direction.FORWARD)


async def freeze(context: JobContext) -> None:
    """Write everything out and stop writes, for a few seconds at most."""
    if context.record.params["quiesce"]:
        await context.ports.first.freeze(context.data_set.name, FREEZE_TTL_S)


async def mark(context: JobContext) -> None:
    """Split the third volume at this instant of the remote stream."""
    data_set = context.data_set
    params = m.BackupMark(
        remote_pair=data_set.remote_pair,
        local_pair=data_set.local_pair,
        label=context.record.params["label"],
    )
    await context.ask(data_set.primary, "backup.mark", params, m.PairInfo, "mark")
    if context.record.params["quiesce"] and not await context.ports.first.still_frozen(
        data_set.name
    ):
        raise HostError(
            f"the file system thawed by itself after {FREEZE_TTL_S:.0f} s, before the split",
            "look at the link between the controllers, then run the backup again",
            Code.TIMEOUT,
        )


async def thaw(context: JobContext) -> None:
    """Let writes go on."""
    frozen_s = await context.ports.first.thaw(context.data_set.name)
    if frozen_s:
        context.record.facts["frozen_s"] = frozen_s


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    record = context.record
    now = context.ports.clock.time()
    record.receipt = m.Receipt(
        job=record.id,
        kind=record.kind,
        data_set=record.data_set,
        label=record.params["label"],
        frozen_s=float(record.facts.get("frozen_s", 0.0)),
        duration_s=max(0.0, now - record.started_at),
        finished_at=now,
    )


BACKUP = JobTable(
    (
        Step("check", check),
        Step("resync", resync_local),
        Step("freeze", freeze, undo=thaw, resume_at="check"),
        Step("mark", mark, resume_at="check"),
        Step("thaw", thaw),
        Step("receipt", receipt),
    )
)
