"""Backups' marks, as the secondary acts on them: local pairs split at a point of a remote stream.

Owns what a mark asks for. A local pair that is marked for a backup of several data sets is split
and guarded: it is no backup before `controller.keeping` makes all of them one, and follows again
by itself when told so, and when the link was away. Must not wait: a mark takes effect in the call
that delivers it. Answers with why not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.api import messages as m
from controller.api.codes import Code
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.owner import PairOwner
from controller.pair.side import PairSide
from controller.pair.table import Answer, Command

UNKEPT = "split for a backup of several data sets that isn't kept yet"


def mark_local(
    owner: PairOwner | None, side: PairSide, mark: msg.Mark, reply: Callable[[msg.Marked], None]
) -> None:
    """Split the local pair `owner` behind `side`, at this point of its stream (law L11)."""
    refusal, code = "", Code.WRONG_STATE
    name = mark.local_pair
    step = f"bring it in sync: trilun pair resync {name}, then wait: trilun pair wait {name} PAIR"
    if owner is None or owner.record.volume != side.record.volume:
        refusal = f"'{side.record.volume}' is not the P-VOL of a local pair '{mark.local_pair}'"
        code, step = Code.NOT_FOUND, "trilun pair list shows what there is"
    elif mark.quick and not mark.instant and owner.record.state is not m.PairState.PAIR:
        refusal, step = owner.quick.refusal(), f"look at it: trilun pair show {name}"
    elif owner.record.state is not m.PairState.PAIR:
        refusal = f"local pair '{mark.local_pair}' is in {owner.record.state}, it must be PAIR"
    elif not side.volume.state.consistent:
        refusal = f"'{side.record.volume}' is not one point in time"
        code = Code.NOT_CONSISTENT
        step = f"wait for its own pair: trilun pair wait {side.record.name} PAIR"
    if refusal or owner is None:
        reply(msg.Marked(error=refusal, code=code.value, next_step=step))
        return

    def durable(split: asyncio.Future[Answer]) -> None:
        error = None if split.cancelled() else split.exception()
        if split.cancelled() or error is not None:
            reply(msg.Marked(error=str(error or "stopped"), code=Code.WRONG_STATE.value))
        else:
            reply(msg.Marked())

    if owner.record.state is m.PairState.COPY:
        owner.quick.begin(Asked(Command.QUICK, label=mark.label, at=mark.at, number=mark.number))
        owner.split_begun().add_done_callback(durable)
        return
    label = "" if mark.instant else mark.label
    owner.begin_split(label, mark.at, mark.number).add_done_callback(durable)
    if mark.instant:
        owner.record.instant, owner.record.guarded = mark.instant, True
        owner.record.reason = UNKEPT


def unmark_local(owner: PairOwner | None, side: PairSide, unmark: msg.Unmark) -> None:
    """Let a local pair follow again that was split in vain; nothing when it was kept, or wasn't."""
    if owner is None or owner.record.volume != side.record.volume:
        return
    if owner.record.instant != unmark.instant:
        return
    if owner.record.guarded and owner.side.volume.state.consistent:
        owner.resume_guarded()
