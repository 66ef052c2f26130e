"""The state table: complete, explained, and the same as its page in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api.codes import Verdict
from controller.api.messages import PairState, Role
from controller.pair.table import (
    COMMANDS,
    EVENTS,
    OFFERED,
    Command,
    Event,
    Named,
    after,
    answer,
    document,
    for_role,
    mermaid,
    while_offered,
)

S = PairState

PAIR = Named("p1")
DOC = Path(__file__).parents[3] / "docs" / "pair-states.md"


@pytest.mark.parametrize("state", list(PairState))
@pytest.mark.parametrize("command", list(Command))
def test_every_command_has_an_answer_in_every_state(state: PairState, command: Command) -> None:
    row = answer(state, command, PAIR)
    assert row.reason
    assert "{" not in row.next_step
    if row.verdict is Verdict.REJECTED:
        assert row.next_step
    if row.verdict is Verdict.ACCEPTED:
        assert row.state is not None
        # A verify looks and changes nothing: it may be had again. A swap names its outcome. A
        # quick split has another instant each time.
        again_ok = command in (Command.VERIFY, Command.SWAP, Command.QUICK)
        if row.state is not PairState.SMPL and not again_ok:
            again = answer(row.state, command, PAIR)
            assert again.verdict is Verdict.NO_OP, "a repeated command is a no-op"


@pytest.mark.parametrize("state", list(PairState))
@pytest.mark.parametrize("event", list(Event))
def test_events_lead_to_states_of_the_table(state: PairState, event: Event) -> None:
    target = after(state, event)
    assert target == EVENTS.get((state, event))
    if event is Event.LINK_LOST and target is not None:
        split = state in (PairState.PSUS, PairState.SSUS, PairState.SSWS)
        assert target is (state if split else PairState.PSUE)
    if state is PairState.SMPL:
        assert target is None


def test_the_rules_at_the_head_of_the_table() -> None:
    def verdicts(command: Command, verdict: Verdict) -> set[PairState]:
        return {state for state in S if COMMANDS[state, command].verdict is verdict}

    accepted, rejected = Verdict.ACCEPTED, Verdict.REJECTED
    # 1. The S-VOL's side decides nothing.  6. But to take over, and to keep the role.
    assert [c for c in Command if S.SSUS in verdicts(c, accepted)] == [Command.TAKEOVER]
    assert [c for c in Command if S.SSWS in verdicts(c, accepted)] == [Command.SWAP]
    for state, command in COMMANDS:
        row = answer(state, command, PAIR)
        there = for_role(row, Role.S_VOL, command, PAIR, forced=False)
        here = for_role(row, Role.P_VOL, command, PAIR, forced=False)
        if row.verdict is accepted:
            own = command is Command.TAKEOVER or (state, command) == (S.SSWS, Command.SWAP)
            assert (there.verdict is accepted) == own
            assert (here.verdict is accepted) == (command is not Command.TAKEOVER)
        else:
            assert here is row
            assert there is row or command is Command.KEEP
    # 3. Half a copy is no point in time: it can't be split, and COPY can only be given up.
    assert {S.COPY, S.RCPY} <= verdicts(Command.SPLIT, rejected)
    assert verdicts(Command.DELETE, rejected) == {S.RCPY, S.SSUS, S.SSWS}
    # 4. A reverse copy starts from a split, by command or by error, and replaces nothing.
    assert verdicts(Command.REVERSE, accepted) == {S.PSUS, S.PSUE}
    assert S.RCPY in verdicts(Command.RESYNC, rejected)
    assert verdicts(Command.CREATE, accepted) == {S.SMPL}


@pytest.mark.parametrize("state", [S.PAIR, S.PSUE, S.PSUS])
def test_while_the_role_is_offered_nothing_is_decided_but_to_keep_it(state: PairState) -> None:
    """Rule 9."""
    for command in Command:
        row = answer(state, command, PAIR)
        met = while_offered(row, state, command, PAIR)
        if command in (Command.CREATE, Command.DELETE) or (state, command) == (
            S.PAIR,
            Command.SWAP,
        ):
            assert met is row
        elif command is Command.KEEP:
            assert (met.verdict, met.state) == (Verdict.ACCEPTED, S.PSUS)
            assert answer(S.PSUS, command, PAIR).verdict is Verdict.NO_OP
        else:
            assert met.verdict is Verdict.REJECTED
            assert "trilun pair swap p1 --to" in met.next_step
    assert set(OFFERED) == set(Command) - {Command.CREATE, Command.DELETE}
    # The other side doesn't keep what it hasn't got.
    row = answer(state, Command.KEEP, PAIR)
    there = for_role(row, Role.S_VOL, Command.KEEP, PAIR, forced=False)
    assert there.verdict is Verdict.REJECTED


def events(event: Event) -> dict[PairState, PairState]:
    return {state: target for state in S if (target := after(state, event)) is not None}


def test_what_each_event_means() -> None:
    paired = set(S) - {S.SMPL}
    mirrors = {S.COPY, S.PAIR, S.RCPY, S.PSUE}
    assert events(Event.COPIED) == {S.COPY: S.PAIR, S.RCPY: S.PAIR}
    # 7. Losing the link loses no state.
    assert events(Event.LINK_LOST) == dict.fromkeys(mirrors, S.PSUE) | {
        S.PSUS: S.PSUS,
        S.SSUS: S.SSUS,
        S.SSWS: S.SSWS,
    }
    assert events(Event.FAILED) == dict.fromkeys(paired, S.PSUE)
    # 2. What an error left goes on by itself; what an operator asked for does not.
    assert events(Event.RESUME_FORWARD) == {S.PSUE: S.COPY}
    assert events(Event.RESUME_REVERSE) == {S.PSUE: S.RCPY}
    assert set(events(Event.TOLD_COPY).values()) == {S.COPY}
    assert set(events(Event.TOLD_REVERSE).values()) == {S.RCPY}
    assert set(events(Event.TOLD_SPLIT).values()) == {S.SSUS}
    # A side that is asked to copy back has been split; one that copies back isn't split.
    assert set(events(Event.TOLD_REVERSE)) == {S.PSUE, S.SSUS, S.SSWS, S.RCPY}
    assert set(events(Event.TOLD_SPLIT)) == {S.PAIR, S.PSUE, S.SSUS}
    assert S.PSUS not in {*events(Event.TOLD_COPY), *events(Event.TOLD_SPLIT)}


def test_the_diagram_shows_every_change_of_state() -> None:
    drawn = mermaid()
    for (state, event), target in EVENTS.items():
        if state is not target:
            assert f"{state} --> {target}: " in drawn, event
    for (state, _), row in COMMANDS.items():
        if row.verdict is Verdict.ACCEPTED:
            assert f"{state} --> {row.state}: " in drawn


def test_the_table_has_nothing_else() -> None:
    assert len(COMMANDS) == len(PairState) * len(Command)


def test_the_page_is_what_the_table_says() -> None:
    assert DOC.read_text() == document(), "run: python -m controller.pair.table"
