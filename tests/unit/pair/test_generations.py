"""Directions: every row of the decision, by who was written since the sides parted (law L8)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.messages import Direction, Fence, Mode, PairKind, PairState, Role
from controller.pair.generations import HISTORY, Decision, How, Rule, Side, decide
from controller.pair.record import PairRecord

F, R = Direction.FORWARD, Direction.REVERSE
SAME = Side("g1", "g1", ("g0",), consistent=True)
WRITTEN_P = Side("p2", "g1", ("g1", "g0"), consistent=True)
WRITTEN_S = Side("s2", "g1", ("g1", "g0"), consistent=True)
LATER_S = Side("s3", "s2", ("g1", "g0"), consistent=True)
STRANGER = Side("x1", "x1", ("x0",), consistent=True)


def half(side: Side) -> Side:
    return Side(side.current, side.baseline, side.history, consistent=False)


ROWS: list[tuple[str, Side, Side, Direction | None, Decision]] = [
    ("neither", SAME, SAME, None, Decision(Rule.SAME, How.BITMAP, F)),
    ("neither", SAME, SAME, F, Decision(Rule.SAME, How.BITMAP, F)),
    ("neither", SAME, SAME, R, Decision(Rule.SAME, How.BITMAP, R)),
    ("P", WRITTEN_P, SAME, None, Decision(Rule.S_BEHIND, How.BITMAP, F)),
    ("P", WRITTEN_P, SAME, F, Decision(Rule.S_BEHIND, How.BITMAP, F)),
    ("P", WRITTEN_P, SAME, R, Decision(Rule.OVERRULED_REVERSE, How.BITMAP, R)),
    ("S", SAME, WRITTEN_S, None, Decision(Rule.P_BEHIND, How.BITMAP, R)),
    ("S", SAME, WRITTEN_S, F, Decision(Rule.OVERRULED_FORWARD, How.BITMAP, F)),
    ("S", SAME, WRITTEN_S, R, Decision(Rule.P_BEHIND, How.BITMAP, R)),
    ("both", WRITTEN_P, WRITTEN_S, None, Decision(Rule.SPLIT_BRAIN, How.REFUSE, F)),
    ("both", WRITTEN_P, WRITTEN_S, F, Decision(Rule.NAMED_FORWARD, How.BITMAP, F)),
    ("both", WRITTEN_P, WRITTEN_S, R, Decision(Rule.NAMED_REVERSE, How.BITMAP, R)),
    ("apart", WRITTEN_P, LATER_S, None, Decision(Rule.FULL_COPY, How.REFUSE, F)),
    ("apart", WRITTEN_P, LATER_S, F, Decision(Rule.FULL_COPY, How.REFUSE, F)),
    ("apart", WRITTEN_P, LATER_S, R, Decision(Rule.FULL_COPY, How.REFUSE, R)),
    ("strangers", SAME, STRANGER, None, Decision(Rule.UNRELATED, How.REFUSE, F)),
    ("strangers", SAME, STRANGER, F, Decision(Rule.UNRELATED, How.REFUSE, F)),
    ("strangers", SAME, STRANGER, R, Decision(Rule.UNRELATED, How.REFUSE, R)),
]


@pytest.mark.parametrize(
    ("written", "p", "s", "asked", "expected"),
    ROWS,
    ids=[f"{row[0]}-{row[3] or 'by itself'}" for row in ROWS],
)
def test_every_row(
    written: str, p: Side, s: Side, asked: Direction | None, expected: Decision
) -> None:
    assert decide(p, s, asked, full=False) == expected
    allowed = decide(p, s, asked, full=True)
    if expected.rule in (Rule.FULL_COPY, Rule.UNRELATED) and asked is not None:
        assert allowed == Decision(expected.rule, How.FULL, asked)
    else:
        assert allowed == expected, "a full copy happens only where it is asked for and needed"


@pytest.mark.parametrize(("p", "s"), [(row[1], row[2]) for row in ROWS if row[3] is None])
@pytest.mark.parametrize("full", [False, True])
def test_half_a_copy_is_never_a_source(p: Side, s: Side, full: bool) -> None:
    for asked in (None, F, R):
        before = decide(p, s, asked, full=full)
        source_half = (half(p), s) if before.direction is F else (p, half(s))
        target_half = (p, half(s)) if before.direction is F else (half(p), s)
        found = decide(*source_half, asked, full=full)
        if before.how is How.REFUSE:
            assert found == before
        else:
            assert found == Decision(Rule.BAD_SOURCE, How.REFUSE, before.direction)
        assert decide(*target_half, asked, full=full) == before


def test_a_cut_between_the_two_notes_of_an_agreement() -> None:
    """The target has noted the source's generation, the source not yet that it has."""
    source, target = WRITTEN_P, Side("p2", "p2", ("g1", "g0"), consistent=False)
    assert decide(source, target, None, full=False) == Decision(Rule.SAME, How.BITMAP, F)
    source, target = WRITTEN_S, Side("s2", "s2", ("g1",), consistent=False)
    assert decide(target, source, R, full=False) == Decision(Rule.SAME, How.BITMAP, R)


names = st.sampled_from(["a", "b", "c", "d"])
sides = st.builds(
    Side, names, names, st.lists(names, max_size=3).map(tuple), consistent=st.booleans()
)


@given(sides, sides, st.sampled_from([None, F, R]), st.booleans())
def test_no_decision_breaks_the_law(p: Side, s: Side, asked: Direction | None, full: bool) -> None:
    found = decide(p, s, asked, full=full)
    if found.how is How.REFUSE:
        return
    source, target = (p, s) if found.direction is F else (s, p)
    assert source.consistent
    assert found.direction is asked or asked is None
    if found.how is How.FULL:
        assert full
        assert asked is not None
    if asked is None and found.rule is not Rule.SAME:
        assert target.current == target.baseline or target.current == source.baseline, (
            "nothing written is overwritten unasked"
        )


def record(**more: Any) -> PairRecord:
    fields: dict[str, Any] = {
        "id": "0" * 32,
        "name": "p1",
        "kind": PairKind.REMOTE,
        "role": Role.P_VOL,
        "volume": "v",
        "other_volume": "w",
        "peer": "b",
        "mode": Mode.SYNC,
        "fence": Fence.NEVER,
        "rate_limit_bytes_per_s": None,
        "state": PairState.PAIR,
        "goal": "mirror",
        "current": "g0",
        "baseline": "g0",
    }
    return PairRecord.model_validate(fields | more)


def test_a_record_keeps_its_baseline_until_the_sides_agree_and_a_bounded_history() -> None:
    side = record()
    side.begin_generation("g1")
    assert (side.current, side.baseline, side.history) == ("g1", "g0", ["g0"])
    side.agree("g1")
    assert (side.current, side.baseline, side.history) == ("g1", "g1", ["g0"])
    side.agree("s2")
    assert (side.current, side.baseline, side.history) == ("s2", "s2", ["g1", "g0"])
    for number in range(2 * HISTORY):
        side.begin_generation(f"n{number}")
    assert len(side.history) == HISTORY
    assert side.side(consistent=True).history[0] == f"n{2 * HISTORY - 2}"


@pytest.mark.parametrize("state", list(PairState))
def test_which_way_a_state_copies(state: PairState) -> None:
    expected = {PairState.COPY: F, PairState.RCPY: R}.get(state)
    assert record(state=state).copying is expected
