"""Pairs as jobs see them: where they stand, and waiting until a resync is through.

Owns the polling, which states mean that a resync has ended badly, and which way a copy ran: PAIR is
the end of either. Whether a copy back was begun is told by its count in the P-VOL's record, never
by an answer that may have been lost. Must not ask for anything that changes a pair except a
resync. Fails with HostError that passes the controller's reason and next step on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.errors import FinalError, HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.meter import INTERVAL_S, Meter

SETTLE_S = 10.0
"""How long an accepted resync may take to show."""

SPLIT = frozenset({m.PairState.PSUS, m.PairState.SSUS})
_COPYING = frozenset({m.PairState.COPY, m.PairState.RCPY})
_RUNS = {m.Direction.FORWARD: m.PairState.COPY, m.Direction.REVERSE: m.PairState.RCPY}
_COUNTS = "copies_back"


async def show_pair(context: JobContext, node: str, name: str) -> m.PairInfo:
    """One side of a pair."""
    return await context.look(node, "pair.show", m.Named(name=name), m.PairInfo)


async def show_volume(context: JobContext, node: str, name: str) -> m.VolumeInfo:
    """A volume, or a view."""
    return await context.look(node, "volume.show", m.Named(name=name), m.VolumeInfo)


# ---------------------------------------------------------------- which way a copy ran


def note_copies_back(context: JobContext, pair: m.PairInfo, *, anew: bool = False) -> None:
    """Write down how many copies back there were, before this job can have begun one."""
    counts = context.facts.setdefault(_COUNTS, {})
    if anew or pair.name not in counts:
        counts[pair.name] = pair.copies_back


def copied_back(context: JobContext, pair: m.PairInfo) -> bool:
    """Whether a copy back may have been begun since that was written down."""
    counted: int | None = context.facts.get(_COUNTS, {}).get(pair.name)
    return pair.role is not m.Role.P_VOL or pair.copies_back != counted


async def refuse_overwritten(context: JobContext) -> None:
    """FinalError unless the first volume is known to be what it was when the job began."""
    pair = await show_pair(context, context.data_set.primary, context.data_set.remote_pair)
    if copied_back(context, pair) or pair.goal in ("", "reverse"):
        raise FinalError(
            f"a copy back into volume '{pair.p_volume}' was begun, so it is no longer what it was",
            pair.next_step or f"look at `trilun pair show {pair.name}`",
            Code.WRONG_STATE,
        )


async def is_untouched(context: JobContext) -> bool:
    """Whether the first volume is known to be what it was; what can't be told is no yes."""
    try:
        await refuse_overwritten(context)
    except RejectedError:
        return False
    return True


async def follow_again(context: JobContext, name: str, key: str) -> None:
    """Let a slot's third volume follow the second again, as soon as that is one point in time."""
    params = m.PairResync(name=name, direction=m.Direction.FORWARD)
    try:
        await context.ask(context.data_set.secondary, "pair.resync", params, m.PairInfo, key)
    except RejectedError as exc:
        if exc.code is not Code.NOT_CONSISTENT:
            raise
        # Its own copy runs, or waits for the link: that passes, however long it takes.
        raise HostError(exc.message, exc.next_step, Code.BUSY) from exc


# ---------------------------------------------------------------- resyncs


async def resync(
    context: JobContext,
    node: str,
    name: str,
    key: str,
    direction: m.Direction,
    *,
    begun: bool = False,
    ahead: Callable[[], Awaitable[None]] | None = None,
) -> m.PairInfo:
    """Ask for a resync, unless one runs that way, and wait until it is through, or has `begun`.

    `<key>.asked` in the record's facts says that it was asked for by this job, so that PAIR
    means done and not "never split". `ahead` is done before it is asked for.
    """
    asked = f"{key}.asked"
    before = await show_pair(context, node, name)
    facts = context.facts
    if direction is m.Direction.REVERSE:
        note_copies_back(context, before)
        through = _is_back(context, before)
    else:
        through = bool(facts.get(asked)) and before.state is m.PairState.PAIR
    if not through and before.state is not _RUNS[direction]:
        if ahead is not None:
            await ahead()
        elif direction is m.Direction.REVERSE:
            # What was counted has to be known if the answer is lost.
            await context.save()
        params = m.PairResync(name=name, direction=direction)
        await context.ask(node, "pair.resync", params, m.PairInfo, key)
    if not facts.get(asked):
        facts[asked] = True
        await context.save()
    return await _wait_for_pair(context, node, name, key, direction, begun=begun)


def _is_back(context: JobContext, pair: m.PairInfo) -> bool:
    """Whether a copy back is through: a link that is cut behind it takes nothing away."""
    return (
        copied_back(context, pair)
        and pair.goal == "mirror"
        and pair.state in (m.PairState.PAIR, m.PairState.PSUE)
    )


async def wait_copied(context: JobContext, node: str, name: str) -> None:
    """Wait until nothing is copied behind a quick split any more; HostError if it is given up."""
    clock = context.ports.clock
    meter = Meter(0, clock.monotonic())
    while (info := await show_pair(context, node, name)).behind:
        now_s = clock.monotonic()
        if info.progress is not None:
            meter.set_done(info.progress.done_bytes, now_s, info.progress.left_bytes)
            if meter.due(now_s):
                context.tell(info.progress)
        await context.ports.pause(INTERVAL_S)
    if info.state not in SPLIT:
        raise HostError(
            f"'{name}' was given up before it was copied: it is {info.state.value}"
            + (f", {info.reason}" if info.reason else ""),
            "choose another backup: trilun backup list",
            Code.WRONG_STATE,
        )


async def _wait_for_pair(
    context: JobContext,
    node: str,
    name: str,
    key: str,
    direction: m.Direction,
    *,
    begun: bool,
) -> m.PairInfo:
    clock = context.ports.clock
    meter = Meter(0, clock.monotonic())
    since_s = clock.monotonic()
    back = direction is m.Direction.REVERSE
    while True:
        info = await show_pair(context, node, name)
        now_s = clock.monotonic()
        if _is_back(context, info) if back else info.state is m.PairState.PAIR:
            return info
        if info.state is _RUNS[direction] or (back and info.state in _COPYING):
            if begun:
                return info
            since_s = now_s
            if info.progress is not None:
                meter.set_done(info.progress.done_bytes, now_s, info.progress.left_bytes)
                if meter.due(now_s):
                    context.tell(info.progress)
        elif now_s - since_s > SETTLE_S:
            context.renew(key)
            raise HostError(
                f"pair '{name}' is {info.state.value} instead of PAIR after its resync"
                + (f": {info.reason}" if info.reason else ""),
                info.next_step or f"look at `trilun pair show {name}`",
                Code.WRONG_STATE if info.peer_connected else Code.NO_PEER,
            )
        await context.ports.pause(INTERVAL_S)
