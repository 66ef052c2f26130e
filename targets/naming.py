"""Names of targets and initiators, whichever front end shows them or lets them in.

Owns what iSCSI allows in a name (RFC 3722: lower-case letters, digits, '-', '.' and ':'). Pure.
Fails with ValueError, and only where a name is checked.
"""

from __future__ import annotations

import re

IQN_ROOT = "iqn.2026-11.io.trilun"
MAX_NAME_BYTES = 223

# '_' is not RFC 3722's, but hosts have it in their names.
_ISCSI_NAME = re.compile(
    r"iqn\.\d{4}-\d{2}\.[a-z0-9.\-]+(:[a-z0-9._\-:]+)?"
    r"|eui\.[0-9A-Fa-f]{16}|naa\.([0-9A-Fa-f]{16}){1,2}"
)


def is_iscsi_name(name: str) -> bool:
    """Whether a target or an initiator may have this name (RFC 7143, 4.2.7)."""
    return len(name) <= MAX_NAME_BYTES and _ISCSI_NAME.fullmatch(name) is not None


def initiator_name(text: str) -> str:
    """An initiator's name as names are compared, in lower case; raises ValueError."""
    name = text.lower()
    if not is_iscsi_name(name):
        raise ValueError(f"not an iSCSI name: {text!r}")
    return name


def target_prefix(node: str) -> str:
    """How the target names of a node begin."""
    return f"{IQN_ROOT}:{plain(node)}."


def plain(name: str) -> str:
    """A name with only what is allowed in one; different names may become the same."""
    return re.sub(r"[^a-z0-9.-]", "-", name.lower())
