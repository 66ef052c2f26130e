"""Turning a received request into an answer: parse, check, carry out, phrase.

Owns every reason a request can be refused before a handler sees it, and the one place where an
unexpected exception of a handler becomes an answer. Must not touch MQTT or the disk.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import Info, NodeKind, Params, Reply, Request
from controller.api.verbs import VERBS, Verb
from controller.service.validation import error_lines

MAX_REQUEST_BYTES = 1 << 20
UNKNOWN_ID = "unknown"

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back for a command that was not rejected."""

    verdict: Verdict = Verdict.ACCEPTED
    message: str = ""
    next_step: str = ""
    result: Info | None = None


Handler = Callable[[Verb, Params, Request], Awaitable[Answer]]
"""Carries one request out. `params` is an instance of `verb.params`.

Raises RejectedError to refuse; anything else it raises is answered as `internal`.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A request that parses: what is asked, with which parameters."""

    verb: Verb
    params: Params
    request: Request


class MalformedError(Exception):
    """A request that can't be carried out as it stands; `request_id` is what could be read."""

    def __init__(self, request_id: str, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id
        self.message = message
        self.next_step = next_step


def parse_command(verb_name: str, payload: bytes, kind: NodeKind) -> Command:
    """Check a request against the table of verbs; raises MalformedError with one line."""
    request = _parse_envelope(payload)
    verb = VERBS.get(verb_name)
    if verb is None:
        raise MalformedError(request.id, f"unknown verb '{verb_name[:80]}'")
    if verb.kind is not kind:
        raise MalformedError(
            request.id,
            f"'{verb.name}' is a verb of {verb.kind.value}s, this node's kind is {kind.value}",
        )
    try:
        params = verb.params.model_validate(request.params)
    except ValidationError as exc:
        raise MalformedError(request.id, _joined(exc, verb.params)) from exc
    return Command(verb, params, request)


def _parse_envelope(payload: bytes) -> Request:
    if len(payload) > MAX_REQUEST_BYTES:
        raise MalformedError(UNKNOWN_ID, f"the request is larger than {MAX_REQUEST_BYTES} bytes")
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        reason = " ".join(str(exc).split())
        raise MalformedError(UNKNOWN_ID, f"the request is not JSON: {reason}") from exc
    try:
        return Request.model_validate(data)
    except ValidationError as exc:
        given = data.get("id") if isinstance(data, dict) else None
        request_id = given[:63] if isinstance(given, str) else UNKNOWN_ID
        raise MalformedError(request_id, _joined(exc, Request)) from exc


def _joined(error: ValidationError, model: type[Params]) -> str:
    return "; ".join(error_lines(error, model))


async def carry_out(node: str, command: Command, handler: Handler) -> Reply:
    """Run the handler and phrase its outcome; never raises what the handler raised."""
    try:
        answer = await handler(command.verb, command.params, command.request)
        assert answer.result is None or isinstance(answer.result, command.verb.result)
        result = None if answer.result is None else answer.result.model_dump(mode="json")
    except RejectedError as exc:
        return rejected(node, command.request.id, exc.code, exc.message, exc.next_step)
    except Exception as exc:  # noqa: BLE001
        # The one broad net: a mistake in one command must not take the node down.
        _log.exception("command failed unexpectedly", verb=command.verb.name)
        return rejected(
            node,
            command.request.id,
            Code.INTERNAL,
            f"internal error: {type(exc).__name__}",
            f"look for request {command.request.id} in the log of {node}, and report it",
        )
    return Reply(
        id=command.request.id,
        node=node,
        verdict=answer.verdict,
        code=Code.OK,
        message=answer.message,
        next_step=answer.next_step,
        result=result,
    )


def rejected(node: str, request_id: str, code: Code, message: str, next_step: str = "") -> Reply:
    """A reply that refuses."""
    return Reply(
        id=request_id,
        node=node,
        verdict=Verdict.REJECTED,
        code=code,
        message=message,
        next_step=next_step,
    )
