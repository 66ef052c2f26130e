"""Who may talk: every refusal is a sentence with the names in it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from controller.link.frames import VERSION
from controller.link.hello import Hello, check_hello

ID, OTHER_ID = "a" * 32, "b" * 32
KNOWN = {"b": ID, "new": ""}


def hello(**more: object) -> Hello:
    fields: dict[str, object] = {"node": "b", "node_id": ID, "link_version": VERSION}
    return Hello.model_validate(fields | more)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, ""),
        ({"node": "new", "node_id": OTHER_ID}, ""),
        ({"refused": "I am busy"}, "'b' refused us: I am busy"),
        ({"node": "a"}, "'a', this node itself"),
        ({"node": "stranger"}, "'stranger' is not a peer of 'a'; add a [[peer]] section"),
        ({"link_version": VERSION + 1}, f"'b' speaks link version {VERSION + 1}"),
        ({"node_id": OTHER_ID}, "another node than the one that was met before"),
    ],
)
def test_every_hello(changes: dict[str, object], sentence: str) -> None:
    found = check_hello(hello(**changes), "a", KNOWN.get)
    assert sentence in found
    assert bool(found) == bool(sentence)


@pytest.mark.parametrize(
    "changes",
    [{"node": "../b"}, {"node_id": "A" * 32}, {"node_id": "a"}, {"refused": "x" * 501}],
)
def test_a_hello_that_is_none(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        hello(**changes)
