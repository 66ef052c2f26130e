"""Topics: no name reaches into another topic, and what is made is taken apart again."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import topics

pytestmark = pytest.mark.plain

NAMES = st.from_regex(re.compile(topics.NAME_PATTERN, re.ASCII), fullmatch=True).filter(
    lambda name: not name.endswith("\n")
)


@given(NAMES, st.sampled_from(get_args(topics.StateKind)), NAMES)
def test_a_state_topic_is_taken_apart_again(node: str, kind: topics.StateKind, name: str) -> None:
    address = topics.parse(topics.state(node, kind, name))
    assert address == topics.Address(node, "state", (kind, name))


@given(NAMES, NAMES)
def test_a_command_topic_is_taken_apart_again(node: str, verb: str) -> None:
    assert topics.parse(topics.command(node, verb)) == topics.Address(node, "cmd", (verb,))


@given(st.text())
def test_only_names_without_topic_signs_are_taken(text: str) -> None:
    try:
        topics.check_name(text)
    except ValueError:
        return
    assert not set(text) & set("/+#\0\n $")
    assert 1 <= len(text) <= 63


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "-a", ".a", "a" * 64, "ä", "a b", "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid name"):
        topics.check_name(name)


@given(st.text())
def test_any_topic_can_be_looked_at(topic: str) -> None:
    assert topics.parse(topic) is None
    address = topics.parse(f"{topics.ROOT}/n/{topic}")
    assert address is not None
    assert "/".join((address.section, *address.rest)) == topic


@pytest.mark.parametrize(
    "topic", ["trilun/v1", "trilun/v1/", "trilun/v1/n", "trilun/v1/+/x", "a/b"]
)
def test_foreign_topics_are_none(topic: str) -> None:
    assert topics.parse(topic) is None
