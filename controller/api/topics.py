"""MQTT topics: the only place that spells them.

    trilun/v1/<node>/cmd/<verb>               requests, QoS 1, response topic and correlation data
    trilun/v1/<node>/status                   retained: NodeStatus; the will sets it to offline
    trilun/v1/<node>/state/<kind>/<name>      retained: VolumeInfo, PairInfo, JobInfo; empty = gone
    trilun/v1/<client>/reply                  replies to one client

Names are checked here: letters, digits, '-', '_' and '.', so that no name can reach into
another topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ROOT = "trilun/v1"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NAME = re.compile(NAME_PATTERN)

StateKind = Literal["volume", "pair", "job"]


def check_name(name: str) -> str:
    """Return `name`, or raise ValueError when it can't be a node's, volume's, pair's or job's."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is not a valid name: 1 to 63 letters, digits, '-', '_' or '.', "
            "starting with a letter or digit"
        )
    return name


def command(node: str, verb: str) -> str:
    """Where requests of one verb go."""
    return f"{ROOT}/{check_name(node)}/cmd/{verb}"


def commands(node: str) -> str:
    """What a node subscribes to."""
    return f"{ROOT}/{check_name(node)}/cmd/+"


def reply(client: str) -> str:
    """Where replies to `client` go."""
    return f"{ROOT}/{check_name(client)}/reply"


def status(node: str) -> str:
    """A node's retained status."""
    return f"{ROOT}/{check_name(node)}/status"


def state(node: str, kind: StateKind, name: str) -> str:
    """The retained state of one object."""
    return f"{ROOT}/{check_name(node)}/state/{kind}/{check_name(name)}"


ALL_STATUS = f"{ROOT}/+/status"
ALL_STATE = f"{ROOT}/+/state/#"


@dataclass(frozen=True, slots=True)
class Address:
    """A topic taken apart: whose it is and what it carries."""

    node: str
    section: str
    """'cmd', 'status', 'state' or 'reply'."""
    rest: tuple[str, ...]


def parse(topic: str) -> Address | None:
    """Take a topic apart; None when it isn't one of ours."""
    if not topic.startswith(ROOT + "/"):
        return None
    parts = topic[len(ROOT) + 1 :].split("/")
    if len(parts) < 2 or not _NAME.fullmatch(parts[0]):
        return None
    return Address(parts[0], parts[1], tuple(parts[2:]))
