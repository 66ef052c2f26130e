"""Names of targets: the same for the same node and volume, whichever front end shows them.

Owns what iSCSI allows in a name (RFC 3722: lower-case letters, digits, '-', '.' and ':'). Pure.
Fails never.
"""

from __future__ import annotations

import re

IQN_ROOT = "iqn.2026-11.io.trilun"


def target_prefix(node: str) -> str:
    """How the target names of a node begin."""
    return f"{IQN_ROOT}:{plain(node)}."


def plain(name: str) -> str:
    """A name with only what is allowed in one; different names may become the same."""
    return re.sub(r"[^a-z0-9.-]", "-", name.lower())
