"""The state table: complete, explained, and the same as its page in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api.codes import Verdict
from controller.api.messages import PairState
from controller.pair.table import COMMANDS, EVENTS, Command, Event, after, answer, document

DOC = Path(__file__).parents[3] / "docs" / "pair-states.md"


@pytest.mark.parametrize("state", list(PairState))
@pytest.mark.parametrize("command", list(Command))
def test_every_command_has_an_answer_in_every_state(state: PairState, command: Command) -> None:
    row = answer(state, command, "p1")
    assert row.reason
    assert "{" not in row.next_step
    if row.verdict is Verdict.REJECTED:
        assert row.next_step
    if row.verdict is Verdict.ACCEPTED:
        assert row.state is not None
        if row.state is not PairState.SMPL:
            again = answer(row.state, command, "p1")
            assert again.verdict is Verdict.NO_OP, "a repeated command is a no-op"


@pytest.mark.parametrize("state", list(PairState))
@pytest.mark.parametrize("event", list(Event))
def test_events_lead_to_states_of_the_table(state: PairState, event: Event) -> None:
    target = after(state, event)
    assert target == EVENTS.get((state, event))
    if event is Event.LINK_LOST and target is not None:
        split = state in (PairState.PSUS, PairState.SSUS)
        assert target is (state if split else PairState.PSUE)
    if state is PairState.SMPL:
        assert target is None


def test_the_table_has_nothing_else() -> None:
    assert len(COMMANDS) == len(PairState) * len(Command)


def test_the_page_is_what_the_table_says() -> None:
    assert DOC.read_text() == document(), "run: python -m controller.pair.table"
