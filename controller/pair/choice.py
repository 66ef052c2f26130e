"""Which way a resync goes, or why it may not: the direction rules in a command's terms.

Owns the refusals and their next steps. The rules themselves are in `controller.pair.generations`.
Changes nothing; refuses with RejectedError.
"""

from __future__ import annotations

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import Direction
from controller.pair import messages as msg
from controller.pair.generations import Decision, How, Rule, Side, decide
from controller.pair.record import PairRecord
from controller.pair.side import PairSide
from controller.pair.standing import may_be_source, name_the_victim

_CODES = {
    Rule.SPLIT_BRAIN: Code.SPLIT_BRAIN,
    Rule.FULL_COPY: Code.FULL_COPY_NEEDED,
    Rule.UNRELATED: Code.UNRELATED,
    Rule.BAD_SOURCE: Code.NOT_CONSISTENT,
}


def choose(
    side: PairSide,
    report: msg.Report,
    asked: Direction | None,
    *,
    full: bool,
    resolve: bool,
) -> Decision:
    """Decide a resync as the P-VOL's side sees it; RejectedError when it can't be.

    `asked` is the direction that was named, `full` allows a full copy, `resolve` asks for the end
    of a split-brain and of nothing else.
    """
    record = side.record
    _check_health(side)
    mine = record.side(consistent=may_be_source(side))
    theirs = Side(report.current, report.baseline, tuple(report.history), report.consistent)
    by_itself = decide(mine, theirs, None, full=False)
    if resolve and by_itself.rule is not Rule.SPLIT_BRAIN:
        raise RejectedError(
            Code.WRONG_STATE,
            f"'{record.name}' has no split-brain: {by_itself.rule.value}",
            f"trilun pair resync {record.name}",
        )
    if asked is None and full and by_itself.rule in (Rule.FULL_COPY, Rule.UNRELATED):
        if theirs.current != theirs.baseline:
            raise _direction_needed(record, "the S-VOL was written since they parted", " --full")
        asked = Direction.FORWARD
    decision = decide(mine, theirs, asked, full=full)
    if decision.how is How.REFUSE:
        raise RejectedError(
            _CODES[decision.rule],
            f"'{record.name}': {decision.rule.value}",
            _next_step(record, decision.rule),
        )
    if asked is None and decision.direction is Direction.REVERSE:
        raise _direction_needed(record, "only the S-VOL was written since they parted")
    return decision


def _direction_needed(record: PairRecord, why: str, option: str = "") -> RejectedError:
    return RejectedError(
        Code.DIRECTION_NEEDED,
        f"'{record.name}': {why}",
        f"keep that: trilun pair resync {record.name} --reverse{option}; "
        f"or discard it: trilun pair resync {record.name} --forward{option}",
    )


def _check_health(side: PairSide) -> None:
    volume, record = side.volume, side.record
    if not volume.state.healthy:
        # Neither a source (law L7) nor a target: what it acknowledged may be gone (law L10).
        raise RejectedError(
            Code.NOT_CONSISTENT,
            f"volume '{volume.name}' has failed",
            f"split '{record.name}' with --writable and go on with '{record.other_volume}'; "
            f"'{volume.name}' has to be deleted and made anew",
        )


def _next_step(record: PairRecord, rule: Rule) -> str:
    if rule is Rule.SPLIT_BRAIN:
        return name_the_victim(record)
    if rule is Rule.FULL_COPY:
        return f"allow it: trilun pair resync {record.name} --full"
    if rule is Rule.UNRELATED:
        return "to overwrite one side all the same, add --full"
    return "copy the other way, or restore that volume first"
