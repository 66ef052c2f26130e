"""What a command meets on one side of a pair: its row of the state table, for this role.

Owns the choice of that row. Changes nothing; refuses with RejectedError where the row says no.
"""

from __future__ import annotations

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import Direction, PairState, Role
from controller.pair.asked import Asked
from controller.pair.record import PairRecord
from controller.pair.table import Answer, Command, Named, answer, for_role, while_offered


def named(record: PairRecord, node: str) -> Named:
    """What next steps call a pair of this node."""
    peer = record.peer or node
    ends = (node, peer) if record.role is Role.P_VOL else (peer, node)
    return Named(record.name, *ends)


def met(record: PairRecord, asked: Asked, node: str) -> tuple[Command, Answer]:
    """The command as the table knows it, and its row; RejectedError where that says no."""
    command, state, names = asked.command, record.state, named(record, node)
    if command is Command.RESYNC and asked.direction is Direction.REVERSE:
        command = Command.REVERSE
    row = answer(state, command, names)
    if asked.resolve and state is PairState.PAIR:
        row = answer(state, Command.RESYNC, names)
    forced = command is Command.DELETE and asked.force
    row = for_role(row, record.role, command, names, forced=forced)
    if record.role is Role.P_VOL and record.closed == "swapping":
        row = while_offered(row, state, command, names)
    if row.verdict is Verdict.REJECTED and not forced:
        raise RejectedError(
            Code.WRONG_STATE, f"pair '{record.name}' is in {state}: {row.reason}", row.next_step
        )
    return command, row
