"""Writes on the first volume since a pair was split, which a restore from that split throws away.

Pure. Owns when that has to be allowed, and the sentences about it. Facts keep how much it was when
the job was planned. Refuses with RejectedError.
"""

from __future__ import annotations

from datetime import UTC, datetime

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.jobs.context import JobContext

_BYTES = "discarded"
NEEDS = "needs"
"""The fact that names what has to be allowed; empty where nothing has."""


def look_for_writes(context: JobContext, first: m.PairInfo) -> None:
    """Note what would be lost, and refuse what nobody has allowed; a dry run is never refused.

    In sync nothing is lost that the plan's meaning doesn't say. An undo is asked for by the job
    whose writes it gives up.
    """
    facts, params = context.record.facts, context.record.params
    split = facts["start"] == "split"
    facts[_BYTES] = first.dirty_bytes if split else 0
    facts[NEEDS] = ""
    if not facts[_BYTES] or params.get("discard_writes") or params.get("undoes"):
        return
    when = f" ({_utc(first.split_at)})" if first.split_at else ""
    lost = (
        f"{facts[_BYTES]} bytes in blocks that were written on '{first.p_volume}' since remote "
        f"pair '{first.name}' was split{when} would be lost"
    )
    if not params["dry_run"]:
        raise RejectedError(
            Code.WRONG_STATE,
            lost,
            f"allow that with --discard-writes; or keep them: `trilun pair resync {first.name} "
            f"--forward`, `trilun pair wait {first.name} PAIR`, then restore",
        )
    facts[NEEDS] = f"--discard-writes: {lost}"


def for_plan(context: JobContext) -> dict[str, object]:
    """The plan's fields about it."""
    facts = context.record.facts
    return {"discarded_bytes": facts[_BYTES], "needs": facts[NEEDS]}


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
