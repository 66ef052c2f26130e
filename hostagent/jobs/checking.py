"""What a restore of a whole volume brought back is compared by digest, where that was asked for.

Owns when each pair is compared. The rules:

  - Second and third before the third's pair is split again: they mirror, and nobody writes. From
    then on an empty bitmap says that they are what they were.
  - First and second when the copy back has ended, before host 1 has the first volume: then first
    equals third.
  - What differs behind the second is undone like any failure. What differs in the first can't be
    undone: host 1 doesn't get it.

Must not repair anything: which side is right is an operator's to say. Fails with FinalError where
anything differs, and with what passes by itself where a comparison was cut off.
"""

from __future__ import annotations

from typing import Any

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.errors import FinalError
from hostagent.jobs.context import JobContext
from hostagent.jobs.meter import INTERVAL_S
from hostagent.jobs.pairs import SPLIT, show_pair
from hostagent.jobs.slots import named
from hostagent.jobs.survey import source_of

_COMPARED = "compared"
MAX_NAMED_RANGES = 4


def asked_for(context: JobContext) -> bool:
    """Whether this restore is to be compared."""
    return bool(context.record.params.get("verify"))


def told(context: JobContext) -> dict[str, Any]:
    """For the receipt: whether all was compared, and how much."""
    compared = context.record.facts.get(_COMPARED, {})
    return {"verified": asked_for(context), "compared_bytes": sum(compared.values())}


async def verify_second(context: JobContext) -> None:
    """Compare the second volume with the third, while they mirror."""
    if not asked_for(context):
        return
    source, node = source_of(context), context.data_set.secondary
    await _compare(
        context, node, source.pair, "verify-second",
        f"look at the disks of {node}; restore another backup: trilun backup list",
    )  # fmt: skip


async def verify_first(context: JobContext) -> None:
    """Compare the first volume with the second, and see that the third is what it was then."""
    if not asked_for(context):
        return
    source, data_set, job = source_of(context), context.data_set, context.record.id
    local = await show_pair(context, data_set.secondary, source.pair)
    if local.state not in SPLIT or local.backup_number != source.number or local.dirty_bytes:
        raise FinalError(
            f"second and third differ: {local.dirty_bytes} bytes in blocks were written since "
            f"{named(source)} was copied, or it is none any more ({local.state.value})",
            f"look who writes to '{data_set.second}'; go on with `trilun job resume {job}`",
            Code.WRONG_STATE,
        )
    pair = data_set.remote_pair
    await _compare(
        context, data_set.primary, pair, "verify-first",
        f"look at the disks; what differs is marked and comes with `trilun pair split {pair}`, "
        f"`trilun pair resync {pair} --reverse`, `trilun pair wait {pair} PAIR`; then "
        f"`trilun job resume {job}`",
    )  # fmt: skip


async def _compare(context: JobContext, node: str, pair: str, key: str, next_step: str) -> None:
    await context.ask(node, "pair.verify", m.PairVerify(name=pair), m.PairInfo, key)
    found = await _ended(context, node, pair)
    if found is None or found.state is not m.VerifyState.ENDED or found.busy_bytes:
        # Not all was compared: another attempt is another request.
        context.renew(key)
        await context.save()
        why = found.reason if found is not None and found.reason else "it was cut off"
        raise RejectedError(
            Code.NO_PEER,
            f"the two sides of '{pair}' could not be compared: {why}",
            f"look at `trilun pair show {pair}`",
        )
    if found.differing_bytes:
        ranges = ", ".join(
            f"{each.offset_bytes}+{each.length_bytes}" for each in found.ranges[:MAX_NAMED_RANGES]
        )
        raise FinalError(
            f"the two sides of '{pair}' differ in {found.differing_bytes} bytes in blocks, at "
            f"{ranges}{', ...' if found.range_count > MAX_NAMED_RANGES else ''}",
            next_step,
            Code.IO_ERROR,
        )
    context.record.facts.setdefault(_COMPARED, {})[key] = found.compared_bytes


async def _ended(context: JobContext, node: str, pair: str) -> m.VerifyInfo | None:
    """What the comparison has found; None when the controller has forgotten it."""
    while True:
        found = (await show_pair(context, node, pair)).verify
        if found is None or found.state is not m.VerifyState.RUNNING:
            return found
        if found.progress is not None:
            context.tell(found.progress)
        await context.ports.pause(INTERVAL_S)
