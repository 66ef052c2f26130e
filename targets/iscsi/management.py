"""Task management: aborts and resets, on one session's tasks or on all of a target's.

Owns which tasks a function reaches and what other nexuses hear of it (SAM-5, 7; RFC 7143, 11.5).
Must not answer before the aborted commands have left the logical units. Fails by a response
code.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from targets.iscsi.pdu import Header
from targets.scsi.sense import BUS_RESET, COMMANDS_CLEARED, DEVICE_RESET

if TYPE_CHECKING:
    from targets.iscsi.session import Session
    from targets.scsi.device import DeviceServer


class Function(enum.IntEnum):
    """Task management functions (RFC 7143, 11.5.1)."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8


class Response(enum.IntEnum):
    """Responses (RFC 7143, 11.6.1)."""

    COMPLETE = 0
    NO_TASK = 1
    NO_LUN = 2
    NO_REASSIGNMENT = 4
    NOT_SUPPORTED = 5
    REJECTED = 255


Answer = Callable[[Response], None]


def manage(session: Session, header: Header, answer: Answer) -> None:
    """Carry out a task management request; `answer` is called once, maybe later."""
    function = header[1] & 0x7F
    if function == Function.TASK_REASSIGN:
        answer(Response.NO_REASSIGNMENT)
    elif function == Function.CLEAR_ACA:
        answer(Response.NOT_SUPPORTED)
    elif function in {Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET}:
        for server in session.node.scsi.servers.values():
            server.reset(BUS_RESET)
        _abort_everywhere(session, None, answer)
    elif function in {
        Function.ABORT_TASK,
        Function.ABORT_TASK_SET,
        Function.CLEAR_TASK_SET,
        Function.LOGICAL_UNIT_RESET,
    }:
        addressed = session.node.scsi.find(header[5])
        if addressed is None:
            answer(Response.NO_LUN)
        else:
            _on_unit(session, addressed, Function(function), header[7], answer)
    else:
        answer(Response.REJECTED)


def _on_unit(
    session: Session, server: DeviceServer, function: Function, tag: int, answer: Answer
) -> None:
    tasks = session.tasks
    if function is Function.ABORT_TASK:
        task = tasks.tasks.get(tag)
        if task is None or task.server is not server:
            answer(Response.NO_TASK)
            return
        tasks.abort([task])
        tasks.when_quiet(lambda: answer(Response.COMPLETE))
    elif function is Function.ABORT_TASK_SET:
        tasks.abort([task for task in tasks.tasks.values() if task.server is server])
        tasks.when_quiet(lambda: answer(Response.COMPLETE))
    elif function is Function.LOGICAL_UNIT_RESET:
        server.reset(DEVICE_RESET)
        _abort_everywhere(session, server, answer)
    else:
        for other in session.node.sessions:
            if other is not session and any(
                task.server is server for task in other.tasks.tasks.values()
            ):
                other.tasks.nexuses[server].queue(COMMANDS_CLEARED)
        _abort_everywhere(session, server, answer)


def _abort_everywhere(session: Session, server: DeviceServer | None, answer: Answer) -> None:
    """Abort the unit's tasks (all units': None) in every session, then answer."""
    sessions = list(session.node.sessions)
    left = len(sessions)

    def quiet() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            answer(Response.COMPLETE)

    for each in sessions:
        held = each.tasks.tasks.values()
        each.tasks.abort([task for task in held if server is None or task.server is server])
    for each in sessions:
        each.tasks.when_quiet(quiet)
