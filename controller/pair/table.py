"""The pair state table: every state, every command, every event, in one place.

Owns which command is accepted, a no-op or rejected in which state, and where each event leads.
Pure data and look-ups. The rules:

 1. Only the P-VOL's side decides; the S-VOL's side follows what it is told on the link, so its
    rows for commands say what to do when the P-VOL's controller can't be asked.
 2. PSUS is what an operator asked for and stays until an operator ends it. PSUE is what an
    error left; where the error was the link, the pair goes on by itself when the link is back.
 3. A copy (COPY, RCPY) can't be split: half a copy is no point in time. It can be waited for,
    or given up by deleting the pair.
 4. A reverse copy starts from a split only, never from PAIR, and never replaces a running copy.
 5. A verify compares what is mirrored, so it needs PAIR; it changes no state.
 6. A takeover is the S-VOL's side's own command: it is for a P-VOL that can't be asked. So is a
    swap behind it; any other swap is the P-VOL's to offer, from PAIR. A swap names the side that
    leads afterwards, so that a repeated one finds nothing to do.
 7. A quick split (local pairs only) ends a copy at its instant: the P-VOL's side is in PSUS at
    once, and the S-VOL's stays in COPY until what was owed to it has been copied behind. It
    discards what the S-VOL held, as a resync does; its S-VOL is no source before that end.
 8. Losing the link loses no state: a mirror in PAIR, COPY or RCPY goes to PSUE and remembers
    which way it was copying; a split stays a split.
 9. Between the offer of a swap and its answer, nobody knows who leads, and the P-VOL's hosts may
    not write. Where the link has taken the answer, nothing is decided here until it is back, but
    for an operator who says that this side keeps the role: then it is split.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from controller.api.codes import Verdict
from controller.api.messages import PairState, Role


class Command(enum.StrEnum):
    """What an operator can ask of a pair."""

    CREATE = "create"
    SPLIT = "split"
    QUICK = "quick split"
    RESYNC = "resync"
    REVERSE = "reverse"
    DELETE = "delete"
    VERIFY = "verify"
    TAKEOVER = "takeover"
    SWAP = "swap"
    KEEP = "keep the role"
    """A swap to the side that has offered its role: it goes on as the P-VOL's."""


class Event(enum.StrEnum):
    """What happens to a pair by itself, or is told by its other side."""

    COPIED = "copied"
    """The copy has ended and both sides are equal and durable."""
    LINK_LOST = "link lost"
    FAILED = "failed"
    """A store or a volume on either side failed."""
    RESUME_FORWARD = "resume forward"
    """The link is back and the pair was mirroring."""
    RESUME_REVERSE = "resume reverse"
    """The link is back and the pair was copying back."""
    TOLD_COPY = "told: copy"
    TOLD_REVERSE = "told: reverse"
    TOLD_SPLIT = "told: split"
    TOLD_WHOLE = "told: whole"
    """Everything that a quick split owed to the S-VOL has been copied."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of the command table. `state` is where an accepted command leads (None: no record)."""

    verdict: Verdict
    state: PairState | None
    reason: str
    next_step: str = ""


S = PairState
_OK, _NOOP, _NO = Verdict.ACCEPTED, Verdict.NO_OP, Verdict.REJECTED
_WAIT = "wait for it: trilun pair wait {name} PAIR"
_SYNC = "bring it in sync first: trilun pair resync {name}"
_FOLLOWS = "the P-VOL's controller decides and can't be reached from here"
_SWAP = "exchange the roles: trilun pair swap {name} --to {s_node}"
_CREATE = "create it: trilun pair create {name} NODE/P_VOLUME NODE/S_VOLUME"
_LEADS = "this side has the P-VOL's role"
_ASK_S = "give the command on the S-VOL's controller"
_ASK_P = "restore the link, or give the command on the P-VOL's controller"

COMMANDS: dict[tuple[PairState, Command], Answer] = {
    (S.SMPL, Command.CREATE): Answer(_OK, S.COPY, "the initial copy begins"),
    (S.SMPL, Command.SPLIT): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.QUICK): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.RESYNC): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.REVERSE): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.DELETE): Answer(_NOOP, None, "there is no such pair"),
    (S.SMPL, Command.VERIFY): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.TAKEOVER): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.SWAP): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.SMPL, Command.KEEP): Answer(_NO, None, "there is no such pair", _CREATE),
    (S.COPY, Command.CREATE): Answer(_NOOP, S.COPY, "the pair exists and is copying"),
    (S.COPY, Command.SPLIT): Answer(
        _NO, S.COPY, "the S-VOL is half copied and would be no point in time", _WAIT
    ),
    (S.COPY, Command.QUICK): Answer(_OK, S.PSUS, "split; what differed is copied behind it"),
    (S.COPY, Command.RESYNC): Answer(_NOOP, S.COPY, "it is copying already"),
    (S.COPY, Command.REVERSE): Answer(
        _NO,
        S.COPY,
        "the S-VOL is half copied and can't be a source",
        _WAIT + ", split it, then reverse",
    ),
    (S.COPY, Command.DELETE): Answer(_OK, S.SMPL, "the copy is given up; the S-VOL is unusable"),
    (S.COPY, Command.VERIFY): Answer(_NO, S.COPY, "it is copying, and the sides differ", _WAIT),
    (S.COPY, Command.TAKEOVER): Answer(
        _NO, S.COPY, "the S-VOL is half copied and holds no point in time", _WAIT
    ),
    (S.COPY, Command.SWAP): Answer(_NO, S.COPY, "it is copying, and the sides differ", _WAIT),
    (S.COPY, Command.KEEP): Answer(_NOOP, S.COPY, _LEADS),
    (S.PAIR, Command.CREATE): Answer(_NOOP, S.PAIR, "the pair exists and is in sync"),
    (S.PAIR, Command.SPLIT): Answer(_OK, S.PSUS, "split"),
    (S.PAIR, Command.QUICK): Answer(_OK, S.PSUS, "split"),
    (S.PAIR, Command.RESYNC): Answer(_NOOP, S.PAIR, "it is in sync already"),
    (S.PAIR, Command.REVERSE): Answer(
        _NO,
        S.PAIR,
        "both sides are equal; a reverse copy starts from a split",
        "split it first: trilun pair split {name}",
    ),
    (S.PAIR, Command.DELETE): Answer(_OK, S.SMPL, "the pair is dissolved"),
    (S.PAIR, Command.VERIFY): Answer(_OK, S.PAIR, "comparing"),
    (S.PAIR, Command.TAKEOVER): Answer(
        _NO, S.PAIR, "the P-VOL's controller is there and serves its hosts", _SWAP
    ),
    (S.PAIR, Command.SWAP): Answer(_OK, S.PSUE, "the roles are exchanged"),
    (S.PAIR, Command.KEEP): Answer(_NOOP, S.PAIR, _LEADS),
    (S.PSUS, Command.CREATE): Answer(_NOOP, S.PSUS, "the pair exists and is split"),
    (S.PSUS, Command.SPLIT): Answer(_NOOP, S.PSUS, "it is split already"),
    (S.PSUS, Command.QUICK): Answer(_OK, S.PSUS, "split anew; what differed is copied behind it"),
    (S.PSUS, Command.RESYNC): Answer(_OK, S.COPY, "copying P-VOL to S-VOL"),
    (S.PSUS, Command.REVERSE): Answer(_OK, S.RCPY, "copying S-VOL to P-VOL"),
    (S.PSUS, Command.DELETE): Answer(_OK, S.SMPL, "the pair is dissolved"),
    (S.PSUS, Command.VERIFY): Answer(_NO, S.PSUS, "it is split, and its sides may differ", _SYNC),
    (S.PSUS, Command.TAKEOVER): Answer(_NO, S.PSUS, "this is the P-VOL's side", _ASK_S),
    (S.PSUS, Command.SWAP): Answer(_NO, S.PSUS, "it is split, and its sides may differ", _SYNC),
    (S.PSUS, Command.KEEP): Answer(_NOOP, S.PSUS, _LEADS),
    (S.PSUE, Command.CREATE): Answer(_NOOP, S.PSUE, "the pair exists and is suspended by an error"),
    (S.PSUE, Command.SPLIT): Answer(_OK, S.PSUS, "split; it will not resume by itself"),
    (S.PSUE, Command.QUICK): Answer(_OK, S.PSUS, "split anew; what differed is copied behind it"),
    (S.PSUE, Command.RESYNC): Answer(_OK, S.COPY, "copying P-VOL to S-VOL"),
    (S.PSUE, Command.REVERSE): Answer(_OK, S.RCPY, "copying S-VOL to P-VOL"),
    (S.PSUE, Command.DELETE): Answer(_OK, S.SMPL, "the pair is dissolved"),
    (S.PSUE, Command.VERIFY): Answer(_NO, S.PSUE, "it does not mirror", _SYNC),
    (S.PSUE, Command.TAKEOVER): Answer(_OK, S.SSWS, "hosts may write to the S-VOL"),
    (S.PSUE, Command.SWAP): Answer(_NO, S.PSUE, "it does not mirror", _SYNC),
    (S.PSUE, Command.KEEP): Answer(_NOOP, S.PSUE, _LEADS),
    (S.RCPY, Command.CREATE): Answer(_NOOP, S.RCPY, "the pair exists and is copying back"),
    (S.RCPY, Command.SPLIT): Answer(
        _NO, S.RCPY, "the P-VOL is half copied and would be no point in time", _WAIT
    ),
    (S.RCPY, Command.QUICK): Answer(
        _NO, S.RCPY, "the P-VOL is half copied and would be no point in time", _WAIT
    ),
    (S.RCPY, Command.RESYNC): Answer(
        _NO, S.RCPY, "it is copying the other way, and the P-VOL is half copied", _WAIT
    ),
    (S.RCPY, Command.REVERSE): Answer(_NOOP, S.RCPY, "it is copying back already"),
    (S.RCPY, Command.DELETE): Answer(
        _NO, S.RCPY, "the P-VOL is half copied and would stay unusable", _WAIT
    ),
    (S.RCPY, Command.VERIFY): Answer(_NO, S.RCPY, "it is copying, and the sides differ", _WAIT),
    (S.RCPY, Command.TAKEOVER): Answer(
        _NO, S.RCPY, "it is copying back, and hosts use neither side meanwhile", _WAIT
    ),
    (S.RCPY, Command.SWAP): Answer(_NO, S.RCPY, "it is copying, and the sides differ", _WAIT),
    (S.RCPY, Command.KEEP): Answer(_NOOP, S.RCPY, _LEADS),
    (S.SSUS, Command.CREATE): Answer(_NOOP, S.SSUS, "the pair exists and is split"),
    (S.SSUS, Command.SPLIT): Answer(_NOOP, S.SSUS, "it is split already"),
    (S.SSUS, Command.QUICK): Answer(_NO, S.SSUS, _FOLLOWS, _ASK_P),
    (S.SSUS, Command.RESYNC): Answer(_NO, S.SSUS, _FOLLOWS, _ASK_P),
    (S.SSUS, Command.REVERSE): Answer(_NO, S.SSUS, _FOLLOWS, _ASK_P),
    (S.SSUS, Command.DELETE): Answer(
        _NO, S.SSUS, _FOLLOWS, _ASK_P + ", or delete this side alone with --force"
    ),
    (S.SSUS, Command.VERIFY): Answer(_NO, S.SSUS, _FOLLOWS, _ASK_P),
    (S.SSUS, Command.TAKEOVER): Answer(_OK, S.SSWS, "hosts may write to the S-VOL"),
    (S.SSUS, Command.SWAP): Answer(
        _NO, S.SSUS, "it is split, and hosts may not write here", "trilun pair takeover {name}"
    ),
    (S.SSUS, Command.KEEP): Answer(_NO, S.SSUS, _FOLLOWS, _ASK_P),
    (S.SSWS, Command.CREATE): Answer(_NOOP, S.SSWS, "the pair exists; the S-VOL has taken over"),
    (S.SSWS, Command.SPLIT): Answer(_NOOP, S.SSWS, "it has parted; the S-VOL has taken over"),
    (S.SSWS, Command.QUICK): Answer(_NO, S.SSWS, _FOLLOWS, _ASK_P),
    (S.SSWS, Command.RESYNC): Answer(_NO, S.SSWS, _FOLLOWS, _ASK_P),
    (S.SSWS, Command.REVERSE): Answer(_NO, S.SSWS, _FOLLOWS, _ASK_P),
    (S.SSWS, Command.DELETE): Answer(
        _NO, S.SSWS, _FOLLOWS, _ASK_P + ", or delete this side alone with --force"
    ),
    (S.SSWS, Command.VERIFY): Answer(_NO, S.SSWS, _FOLLOWS, _ASK_P),
    (S.SSWS, Command.TAKEOVER): Answer(_NOOP, S.SSWS, "it has taken over already"),
    (S.SSWS, Command.SWAP): Answer(_OK, S.PSUS, "the S-VOL is the P-VOL from now on"),
    (S.SSWS, Command.KEEP): Answer(_NO, S.SSWS, _FOLLOWS, _ASK_P),
}

_OFFERED = "its role is offered, and the other side may have taken it"
_LINK_OR_KEEP = (
    "restore the link; where the other side will not come back: "
    "trilun pair swap {name} --to {p_node} --force"
)

OFFERED: dict[Command, Answer] = {
    Command.SPLIT: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.QUICK: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.RESYNC: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.REVERSE: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.VERIFY: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.TAKEOVER: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.SWAP: Answer(_NO, None, _OFFERED, _LINK_OR_KEEP),
    Command.KEEP: Answer(_OK, S.PSUS, "this side goes on as the P-VOL's; hosts may write here"),
}
"""What replaces a row on a P-VOL's side whose offer has had no answer (rule 9)."""

EVENTS: dict[tuple[PairState, Event], PairState] = {
    (S.COPY, Event.COPIED): S.PAIR,
    (S.COPY, Event.LINK_LOST): S.PSUE,
    (S.COPY, Event.FAILED): S.PSUE,
    (S.COPY, Event.TOLD_COPY): S.COPY,
    (S.COPY, Event.TOLD_WHOLE): S.SSUS,
    (S.PAIR, Event.LINK_LOST): S.PSUE,
    (S.PAIR, Event.FAILED): S.PSUE,
    (S.PAIR, Event.TOLD_SPLIT): S.SSUS,
    (S.PAIR, Event.TOLD_COPY): S.COPY,
    (S.PAIR, Event.TOLD_WHOLE): S.SSUS,
    (S.RCPY, Event.COPIED): S.PAIR,
    (S.RCPY, Event.LINK_LOST): S.PSUE,
    (S.RCPY, Event.FAILED): S.PSUE,
    (S.RCPY, Event.TOLD_REVERSE): S.RCPY,
    (S.PSUS, Event.LINK_LOST): S.PSUS,
    (S.PSUS, Event.FAILED): S.PSUE,
    (S.PSUE, Event.LINK_LOST): S.PSUE,
    (S.PSUE, Event.FAILED): S.PSUE,
    (S.PSUE, Event.RESUME_FORWARD): S.COPY,
    (S.PSUE, Event.RESUME_REVERSE): S.RCPY,
    (S.PSUE, Event.TOLD_COPY): S.COPY,
    (S.PSUE, Event.TOLD_REVERSE): S.RCPY,
    (S.PSUE, Event.TOLD_SPLIT): S.SSUS,
    (S.SSUS, Event.LINK_LOST): S.SSUS,
    (S.SSUS, Event.FAILED): S.PSUE,
    (S.SSUS, Event.TOLD_SPLIT): S.SSUS,
    (S.SSUS, Event.TOLD_COPY): S.COPY,
    (S.SSUS, Event.TOLD_REVERSE): S.RCPY,
    (S.SSWS, Event.LINK_LOST): S.SSWS,
    (S.SSWS, Event.FAILED): S.PSUE,
    (S.SSWS, Event.TOLD_COPY): S.COPY,
    (S.SSWS, Event.TOLD_REVERSE): S.RCPY,
}


@dataclass(frozen=True, slots=True)
class Named:
    """What next steps name: the pair, and the nodes of its sides."""

    name: str
    p_node: str = "NODE"
    s_node: str = "NODE"

    def fill(self, row: Answer) -> Answer:
        """A row with the names filled in."""
        step = row.next_step.format(name=self.name, p_node=self.p_node, s_node=self.s_node)
        return Answer(row.verdict, row.state, row.reason, step)


def answer(state: PairState, command: Command, named: Named) -> Answer:
    """What a command meets in a state."""
    return named.fill(COMMANDS[state, command])


def while_offered(row: Answer, state: PairState, command: Command, named: Named) -> Answer:
    """What a row means on a P-VOL's side whose offer has had no answer (rule 9)."""
    asks_again = command is Command.SWAP and state is S.PAIR
    return row if asks_again or command not in OFFERED else named.fill(OFFERED[command])


def for_role(row: Answer, role: Role, command: Command, named: Named, *, forced: bool) -> Answer:
    """What a row means on the side that was asked (rules 1 and 6)."""
    if role is Role.S_VOL and command is Command.KEEP:
        return answer(S.SSUS, Command.KEEP, named)
    if row.verdict is not Verdict.ACCEPTED or forced:
        return row
    if role is Role.P_VOL:
        return answer(S.PSUS, Command.TAKEOVER, named) if command is Command.TAKEOVER else row
    own = command is Command.TAKEOVER or (command is Command.SWAP and row.state is S.PSUS)
    return row if own else answer(S.SSUS, Command.RESYNC, named)


def after(state: PairState, event: Event) -> PairState | None:
    """Where an event leads; None when it means nothing in this state."""
    return EVENTS.get((state, event))


def mermaid() -> str:
    """The table as a state diagram, for docs/pair-states.md."""
    lines = ["stateDiagram-v2", "    [*] --> SMPL"]
    arrows: dict[tuple[PairState, PairState], list[str]] = {}
    for (state, command), row in COMMANDS.items():
        if row.verdict is Verdict.ACCEPTED and row.state is not None:
            arrows.setdefault((state, row.state), []).append(command)
    for (state, event), target in EVENTS.items():
        if state != target:
            arrows.setdefault((state, target), []).append(event)
    arrows.setdefault((S.PSUE, S.PSUS), []).append(Command.KEEP)
    for (origin, target), labels in arrows.items():
        label = ", ".join(labels).replace(":", "")
        lines.append(f"    {origin} --> {target}: {label}")
    return "\n".join(lines) + "\n"


def document() -> str:
    """docs/pair-states.md: the diagram and both tables, as this module has them."""
    lines = [
        "# Pair states",
        "",
        "Made from the table in `controller/pair/table.py` by `python -m controller.pair.table`.",
        "Each side of a pair shows its own state: SMPL (no pair), COPY (copying to the S-VOL),",
        "PAIR (in sync), PSUS (the P-VOL's side of a split), SSUS (the S-VOL's side of one), PSUE",
        "(parted by an error), RCPY (copying back to the P-VOL), SSWS (the S-VOL has taken over:",
        "its hosts write). The P-VOL's side decides: a",
        "command given on the S-VOL's controller is passed on, and the rows of SSUS say what it",
        "meets there when it can't be. A repeated command is a no-op; a rejected one changes",
        "nothing.",
        "",
        "```mermaid",
        mermaid().rstrip(),
        "```",
        "",
        "## Commands",
        "",
        "| state | command | answer | leads to | why | next step |",
        "|---|---|---|---|---|---|",
    ]
    for (state, command), row in COMMANDS.items():
        target = row.state if row.verdict is Verdict.ACCEPTED else None
        lines.append(
            f"| {state} | {command} | {row.verdict} | {target or ''} | {row.reason} "
            f"| {row.next_step} |"
        )
    lines += [
        "",
        "## While the role is offered",
        "",
        "On a P-VOL's side that has offered its role in a swap and has had no answer, these",
        "replace the rows above. In PAIR, a swap offers it again.",
        "",
        "| command | answer | leads to | why | next step |",
        "|---|---|---|---|---|",
    ]
    for command, row in OFFERED.items():
        lines.append(
            f"| {command} | {row.verdict} | {row.state or ''} | {row.reason} | {row.next_step} |"
        )
    lines += ["", "## Events", "", "| state | event | leads to |", "|---|---|---|"]
    lines += [f"| {state} | {event} | {target} |" for (state, event), target in EVENTS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201
