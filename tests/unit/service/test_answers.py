"""Requests before and after the handler: refused in one line, answered whatever happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import NodeKind
from controller.api.verbs import VERBS, Verb
from controller.service.answers import (
    MAX_REQUEST_BYTES,
    Answer,
    Command,
    MalformedError,
    carry_out,
    parse_command,
)
from controller.service.client import result_of
from tests.nodes import volume_info

pytestmark = pytest.mark.plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def _parsed(verb: str, payload: bytes, kind: NodeKind) -> Command | MalformedError:
    try:
        return parse_command(verb, payload, kind)
    except MalformedError as exc:
        return exc


@given(st.sampled_from([*VERBS, "no.such"]), st.sampled_from(NodeKind), st.binary() | JSON)
def test_whatever_arrives_parses_or_is_refused_in_one_line(
    verb: str, kind: NodeKind, body: Any
) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    outcome = _parsed(verb, payload, kind)
    if isinstance(outcome, MalformedError):
        assert outcome.message
        assert "\n" not in outcome.message
        assert len(outcome.request_id) <= 63
    else:
        assert isinstance(outcome.params, VERBS[verb].params)


@given(st.sampled_from(sorted(VERBS)), st.dictionaries(st.text(), JSON, max_size=3))
def test_odd_parameters_are_refused_with_the_request_id(verb: str, params: dict[str, Any]) -> None:
    payload = json.dumps({"id": "r1", "params": params}).encode()
    outcome = _parsed(verb, payload, VERBS[verb].kind)
    assert isinstance(outcome, Command) or outcome.request_id == "r1"


@pytest.mark.parametrize("payload", [b"[" * 100_000, b" " * (MAX_REQUEST_BYTES + 1)])
def test_hostile_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_command("volume.list", payload, NodeKind.CONTROLLER)


def _command() -> Command:
    return Command(VERBS["volume.show"], m.Named(name="v1"), m.Request(id="r1"))


async def test_outcomes_of_a_handler() -> None:
    async def good(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return Answer(Verdict.NO_OP, "as it was", "go on", volume_info())

    async def refusing(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        raise RejectedError(Code.IN_USE, "in use", "wait")

    async def wrong_type(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return Answer(result=m.PairList(pairs=[]))

    reply = await carry_out("n", _command(), good)
    assert (reply.verdict, reply.code, reply.next_step) == (Verdict.NO_OP, Code.OK, "go on")
    assert reply.result == volume_info().model_dump(mode="json")
    reply = await carry_out("n", _command(), refusing)
    assert (reply.verdict, reply.code, reply.message) == (Verdict.REJECTED, Code.IN_USE, "in use")
    assert (await carry_out("n", _command(), wrong_type)).code is Code.INTERNAL


def test_a_no_op_on_what_is_not_there_is_told_as_missing() -> None:
    reply = m.Reply(
        id="r1",
        node="b",
        verdict=Verdict.NO_OP,
        code=Code.OK,
        message="there is no view 'v'",
        next_step="",
        result=None,
    )
    with pytest.raises(RejectedError) as missing:
        result_of(reply, m.VolumeInfo)
    assert missing.value.code is Code.NOT_FOUND
    assert missing.value.message == "there is no view 'v'"
