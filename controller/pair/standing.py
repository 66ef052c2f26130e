"""Where a side stands, for the other side and for whoever looks at it.

Owns the report of a side, and what two reports together say about a split-brain (law L8).
Changes nothing.
"""

from __future__ import annotations

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import PairKind, Role
from controller.pair import messages as msg
from controller.pair.generations import Rule, Side, decide
from controller.pair.record import PairRecord
from controller.pair.side import PairSide
from targets.lun import Access


def name_the_victim(record: PairRecord) -> str:
    """The next step of a split-brain."""
    what = "NODE" if record.kind is PairKind.REMOTE else "VOLUME"
    return (
        f"name the {what.lower()} whose writes are given up: "
        f"trilun pair resolve {record.name} --discard {what}"
    )


def split_news(name: str, *, consistent: bool) -> tuple[str, str]:
    """Reason and next step of a split whose S-VOL is or isn't consistent.

    It isn't when a crash cut off a copy after the S-VOL had got ready and before the P-VOL's
    side had noted it, or when the split itself was not on its disk. The split stands, nobody
    copies by himself, so both sides say what helps.
    """
    if consistent:
        return "", ""
    return "the S-VOL holds no point in time", f"copy to it again: trilun pair resync {name}"


def may_be_source(side: PairSide) -> bool:
    """Whether a copy may start from this side's volume (law L7).

    At the end of a copy back by another pair the volume is whole before that pair follows it
    again: what came from here meanwhile would be missed there.
    """
    volume = side.volume
    others = (tracker for tracker in volume.trackers if tracker is not side)
    return (
        volume.state.consistent
        and volume.state.healthy
        and all(tracker.access is not Access.NOT_READY for tracker in others)
    )


def turned_down(record: PairRecord, reply: msg.Refused) -> RejectedError:
    """What the other side refuses ends the command here."""
    return RejectedError(
        Code.IN_USE,
        reply.reason,
        f"look at both sides: trilun pair show {record.name}; end what stands in the way, then "
        "give the command again",
    )


def check_generation(record: PairRecord, expected: str | None) -> None:
    """RejectedError when the data set is not at the generation that a command expects."""
    if expected is not None and expected != record.current:
        raise RejectedError(
            Code.GENERATION_MISMATCH,
            f"pair '{record.name}' is at generation {record.current}, "
            f"the command expects {expected}",
            f"look at what changed: trilun pair show {record.name}",
        )


def report_of(side: PairSide, in_use: str) -> msg.Report:
    """Where this side stands; `in_use` says why it can't be the target of a copy now."""
    record, volume = side.record, side.volume
    return msg.Report(
        state=record.state,
        goal=record.goal,
        current=record.current,
        baseline=record.baseline,
        history=record.history,
        consistent=may_be_source(side),
        dirty_bytes=side.bitmap.dirty_bytes,
        size_bytes=volume.size_bytes,
        in_use=in_use,
        role=record.role,
        swaps=record.swaps,
    )


def split_brain(side: PairSide, report: msg.Report | None) -> bool:
    """Both sides were written since they parted, as far as this one has been told."""
    if report is None or side.mirroring or side.sinking:
        return False
    mine = side.record.side(consistent=True)
    theirs = Side(report.current, report.baseline, tuple(report.history), consistent=True)
    p, s = (mine, theirs) if side.record.role is Role.P_VOL else (theirs, mine)
    return decide(p, s, None, full=False).rule is Rule.SPLIT_BRAIN
