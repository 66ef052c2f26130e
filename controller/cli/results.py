"""Reporting what became of a command that changes something.

Owns the mapping from a reply to output. A rejected reply leaves as `RejectedError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import RenderableType

from controller.api.codes import Verdict
from controller.api.messages import Info, Reply
from controller.cli.output import print_json, print_line, show
from controller.cli.session import Session
from controller.service.client import result_of

InfoT = TypeVar("InfoT", bound=Info)


def report_change(
    session: Session,
    reply: Reply,
    expect: type[InfoT],
    done: str,
    render: Callable[[InfoT], RenderableType] | None = None,
) -> InfoT:
    """Print an accepted answer (or that there was nothing to do); returns its result.

    Raises RejectedError when the node refused.
    """
    result = result_of(reply, expect)
    if session.json:
        print_json(
            {
                "verdict": reply.verdict.value,
                "message": reply.message,
                "next_step": reply.next_step,
                "result": result,
            }
        )
        return result
    nothing = reply.verdict is Verdict.NO_OP
    print_line(reply.message or (f"{done} already: nothing to do" if nothing else done))
    if reply.next_step:
        print_line(f"next: {reply.next_step}")
    if render is not None:
        show(render(result))
    return result
