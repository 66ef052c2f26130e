"""Whether a resync may begin, and which way: what both sides say, before anything is changed.

Owns the question and its refusals (RejectedError). The rules are in `controller.pair.choice`; what
comes of it is the leader's. Runs inside the owner's task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import Direction, PairState
from controller.link.channel import Channel
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.choice import choose
from controller.pair.generations import Decision
from controller.pair.roles import TAKEN_OVER, ways_back
from controller.pair.side import PairSide

if TYPE_CHECKING:
    from controller.pair.leader import Leader
    from controller.pair.owner import PairOwner


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a resync was decided by."""

    decision: Decision
    current: str
    """The other side's generation."""
    named: bool
    """An operator named the direction."""
    channel: Channel
    """The epoch in which it was so."""


async def weigh(owner: PairOwner, leader: Leader, asked: Asked, *, automatic: bool) -> Weighed:
    """Ask the other side where it stands, and decide by the generations."""
    record, side = owner.record, owner.side
    if side.channel is None:
        raise RejectedError(
            Code.NO_PEER,
            f"the other side of '{record.name}' can't be reached",
            "restore the link; trilun status shows why it is down",
        )
    report = await leader.ask_report()
    if automatic and record.halted:
        # A store has failed while we asked: an operator has to look first.
        raise RejectedError(Code.WRONG_STATE, record.reason, record.next_step)
    different = different_sizes(side, report)
    if different:
        step = f"delete the pair: trilun pair delete {record.name}"
        raise RejectedError(Code.WRONG_STATE, different, step)
    direction = None if automatic else asked.direction
    if report.state is PairState.SSWS and direction is None:
        raise RejectedError(Code.DIRECTION_NEEDED, TAKEN_OVER, ways_back(record.name))
    decision = choose(side, report, direction, full=asked.full, resolve=asked.resolve)
    if report.in_use:
        # A copy back, too: it ends in a mirror, which writes to the S-VOL.
        raise RejectedError(Code.IN_USE, report.in_use, "end that first")
    if decision.direction is Direction.REVERSE:
        leader.check_exclusive(force=asked.force or record.goal == "reverse")
    return Weighed(decision, report.current, direction is not None, owner.talk.epoch())


def different_sizes(side: PairSide, report: msg.Report) -> str:
    """What is said of volumes that can't be a pair, or an empty text."""
    own_bytes = side.volume.size_bytes
    if report.size_bytes == own_bytes:
        return ""
    return f"the volumes have different sizes: {own_bytes} and {report.size_bytes} bytes"
