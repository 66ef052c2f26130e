"""Who is logged in to a portal group, as the kernel lists it.

Owns the reading of those lists. Pure. Fails never: what it can't read is nobody.

An initiator without an ACL is listed by name alone (`dynamic_sessions`). One with an ACL has a
file of its own, which names its latest session and that session's connections, each with the
address it comes from (Linux, drivers/target/iscsi/iscsi_target_configfs.c,
lio_target_nacl_info_show).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NAME = re.compile(r"^InitiatorName: (\S+)$", re.MULTILINE)
_CONNECTIONS = "[iSCSI Connections]"
"""The last of these begins what an initiator can't write into, as it can into its alias."""
_ADDRESS = re.compile(r"^\s+Address (\S+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Listed:
    """What the kernel says of a portal group."""

    dynamic: str = ""
    """Its file `dynamic_sessions`."""
    acls: Mapping[str, str] = field(default_factory=dict)
    """The file `info` of each ACL."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An initiator that is logged in."""

    initiator: str
    address: str
    """Where it connects from, with a comma between several; nothing where the kernel tells none."""
    since_s: float
    """When it was seen first."""


def parse_dynamic(text: str) -> list[str]:
    """The initiators in `dynamic_sessions`: a line for each session."""
    return [line for line in text.replace("\0", "").splitlines() if line]


def parse_info(text: str) -> tuple[str, str] | None:
    """Initiator and address in an ACL's `info`; None when it isn't logged in."""
    name = _NAME.search(text)
    if name is None:
        return None
    connections = text.rpartition(_CONNECTIONS)[2]
    return name[1], ", ".join(dict.fromkeys(_ADDRESS.findall(connections)))


def addresses(listed: Listed) -> dict[str, str]:
    """Every initiator that is logged in, with its address."""
    found = dict.fromkeys(parse_dynamic(listed.dynamic), "")
    for text in listed.acls.values():
        session = parse_info(text)
        if session is not None:
            found[session[0]] = session[1]
    return found
