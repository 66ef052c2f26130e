"""The contract holds together: verbs, messages, codes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.api import messages as m
from controller.api.codes import Code, Exit, exit_for
from controller.api.verbs import VERBS

pytestmark = pytest.mark.plain


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_refuses_unknown_fields(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        VERBS[name].params.model_validate({"surprise": 1})
    assert "extra_forbidden" in {error["type"] for error in caught.value.errors()}


@pytest.mark.parametrize("name", VERBS)
def test_reading_verbs_are_not_durable_and_others_are(name: str) -> None:
    reading = {"show", "list", "read", "diff", "digest", "changed", "extents"}
    reads = name.rsplit(".", 1)[1] in reading
    assert VERBS[name].durable is not reads


@pytest.mark.parametrize("code", Code)
def test_each_code_has_an_exit_code(code: Code) -> None:
    assert (exit_for(code) is Exit.OK) is (code is Code.OK)


@given(st.integers())
def test_a_volume_has_whole_blocks(size_bytes: int) -> None:
    allowed = 0 < size_bytes <= m.MAX_VOLUME_BYTES and size_bytes % m.BLOCK_BYTES == 0
    try:
        m.VolumeCreate(name="v", size_bytes=size_bytes)
    except ValidationError:
        assert not allowed
    else:
        assert allowed


def test_answers_of_a_newer_node_are_understood() -> None:
    payload = (
        '{"id": "a", "node": "n", "verdict": "accepted", "code": "ok", "message": "", "new": 1}'
    )
    assert m.Reply.model_validate_json(payload).id == "a"
