"""Who may be the source: direction by generations, never by clocks or roles (law L8).

Owns the decision table. Pure. Each side of a pair carries the generation it is at (`current`),
the one both sides had when they parted (`baseline`), and the ones before that (`history`). A
side that was written since has a current generation other than the baseline.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from controller.api.messages import Direction

HISTORY = 16


@dataclass(frozen=True, slots=True)
class Side:
    """What one side of a pair says of itself."""

    current: str
    baseline: str
    history: tuple[str, ...]
    consistent: bool


class Rule(enum.Enum):
    """A row of the table; the value is the sentence a dry run shows."""

    SAME = "both sides are at the same generation: the bitmaps tell what may differ"
    S_BEHIND = "only the P-VOL was written since: P-VOL to S-VOL by the bitmaps"
    P_BEHIND = "only the S-VOL was written since: S-VOL to P-VOL by the bitmaps"
    NAMED_FORWARD = "both were written since; the operator named the P-VOL as the source"
    NAMED_REVERSE = "both were written since; the operator named the S-VOL as the source"
    OVERRULED_FORWARD = (
        "only the S-VOL was written since; the operator named the P-VOL as the source"
    )
    OVERRULED_REVERSE = (
        "only the P-VOL was written since; the operator named the S-VOL as the source"
    )
    SPLIT_BRAIN = "both sides were written since they parted: split-brain"
    FULL_COPY = "the bitmaps don't belong together: only a full copy can tell"
    UNRELATED = "the two sides never shared a generation"
    BAD_SOURCE = "the source is half of two points in time"


class How(enum.Enum):
    """What a rule allows."""

    BITMAP = "bitmap"
    FULL = "full"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """Which rule met, and what it allows; `direction` is meaningless when refused."""

    rule: Rule
    how: How
    direction: Direction


def decide(p: Side, s: Side, asked: Direction | None, *, full: bool) -> Decision:
    """Decide a resync of a pair whose sides are `p` and `s`.

    `asked` is the direction an operator named, or None when the pair goes on by itself.
    `full` says that the operator allowed a full copy.
    """
    common = _common(p, s)
    if common is not None:
        rule = _related(p.current != common, s.current != common, asked)
        direction = asked or (Direction.REVERSE if rule is Rule.P_BEHIND else Direction.FORWARD)
        how = How.REFUSE if rule is Rule.SPLIT_BRAIN else How.BITMAP
    else:
        known = {p.baseline, *p.history} & {s.baseline, *s.history}
        rule = Rule.FULL_COPY if known else Rule.UNRELATED
        direction = asked or Direction.FORWARD
        how = How.FULL if full and asked is not None else How.REFUSE
    source = p if direction is Direction.FORWARD else s
    if how is not How.REFUSE and not source.consistent:
        return Decision(Rule.BAD_SOURCE, How.REFUSE, direction)
    return Decision(rule, how, direction)


def _common(p: Side, s: Side) -> str | None:
    """The generation from which both sides' bitmaps count.

    A target notes the source's generation before the source notes that it has: where a cut fell
    between the two, one side's baseline is the other's current generation.
    """
    if p.baseline == s.baseline:
        return p.baseline
    if s.baseline == p.current:
        return p.current
    if p.baseline == s.current:
        return s.current
    return None


def _related(p_written: bool, s_written: bool, asked: Direction | None) -> Rule:
    if not p_written and not s_written:
        return Rule.SAME
    if asked is None:
        if p_written and s_written:
            return Rule.SPLIT_BRAIN
        return Rule.S_BEHIND if p_written else Rule.P_BEHIND
    if asked is Direction.FORWARD:
        if p_written and s_written:
            return Rule.NAMED_FORWARD
        return Rule.S_BEHIND if p_written else Rule.OVERRULED_FORWARD
    if p_written and s_written:
        return Rule.NAMED_REVERSE
    return Rule.P_BEHIND if s_written else Rule.OVERRULED_REVERSE
