"""The first frame each way: who is there, and whether the two may talk.

Owns the model and the check. Pure. A refusal is a sentence that ends up in the status of the
node that was refused as well.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from controller.api.topics import NAME_PATTERN
from controller.link.frames import VERSION


class Hello(BaseModel):
    """HELLO's JSON."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    node: str = Field(pattern=NAME_PATTERN)
    node_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    link_version: int
    refused: str = Field(default="", max_length=500)


def check_hello(hello: Hello, me: str, known: Callable[[str], str | None]) -> str:
    """Why the connection must end, or an empty text.

    `known` gives the id a configured peer had before, an empty text when it was never met, and
    None when no such peer is configured.
    """
    if hello.refused:
        return f"'{hello.node}' refused us: {hello.refused}"
    if hello.node == me:
        return f"the node at that address is '{me}', this node itself"
    expected = known(hello.node)
    if expected is None:
        return f"'{hello.node}' is not a peer of '{me}'; add a [[peer]] section for it"
    if hello.link_version != VERSION:
        return f"'{hello.node}' speaks link version {hello.link_version}, '{me}' speaks {VERSION}"
    if expected and expected != hello.node_id:
        return (
            f"'{hello.node}' is another node than the one that was met before "
            f"(id {hello.node_id[:8]}, expected {expected[:8]})"
        )
    return ""
