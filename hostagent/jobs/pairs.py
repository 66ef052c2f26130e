"""Pairs as jobs see them: where they stand, and waiting until a resync is through.

Owns the polling and which states mean that a resync has ended badly. Must not ask for anything
that changes a pair except a resync. Fails with HostError that passes the controller's reason and
next step on.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code
from hostagent.errors import HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.meter import INTERVAL_S, Meter

SETTLE_S = 10.0
"""How long an accepted resync may take to show."""

COPYING = frozenset({m.PairState.COPY, m.PairState.RCPY})
SPLIT = frozenset({m.PairState.PSUS, m.PairState.SSUS})


async def show_pair(context: JobContext, node: str, name: str) -> m.PairInfo:
    """One side of a pair."""
    return await context.look(node, "pair.show", m.Named(name=name), m.PairInfo)


async def show_volume(context: JobContext, node: str, name: str) -> m.VolumeInfo:
    """A volume, or a view."""
    return await context.look(node, "volume.show", m.Named(name=name), m.VolumeInfo)


async def resync(
    context: JobContext,
    node: str,
    name: str,
    key: str,
    direction: m.Direction,
    *,
    begun: bool = False,
) -> m.PairInfo:
    """Ask for a resync, unless one runs, and wait until the pair is in PAIR, or it has `begun`.

    `<key>.asked` in the record's facts says that it was asked for by this job, so that PAIR
    means done and not "never split".
    """
    asked = f"{key}.asked"
    before = await show_pair(context, node, name)
    facts = context.facts
    # A reverse resync of a pair in PAIR would be refused, and there is nothing left to do.
    in_pair = before.state is m.PairState.PAIR
    if not (facts.get(asked) and in_pair) and before.state not in COPYING:
        params = m.PairResync(name=name, direction=direction)
        await context.ask(node, "pair.resync", params, m.PairInfo, key)
    if not facts.get(asked):
        facts[asked] = True
        await context.save()
    return await _wait_for_pair(context, node, name, key, begun=begun)


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
    context: JobContext, node: str, name: str, key: str, *, begun: bool
) -> m.PairInfo:
    clock = context.ports.clock
    meter = Meter(0, clock.monotonic())
    since_s = clock.monotonic()
    while True:
        info = await show_pair(context, node, name)
        now_s = clock.monotonic()
        if info.state is m.PairState.PAIR:
            return info
        if info.state in COPYING:
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
