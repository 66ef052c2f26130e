"""Names of files as text that any message and record can carry.

Owns one escape: '%' and every byte that isn't UTF-8 become '%XX', so that each name has one text
and each such text one name. Pure. Must not shorten or judge names. Never fails.
"""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

_ESCAPED = range(0xDC80, 0xDD00)
"""How Python keeps bytes that aren't UTF-8 in text (PEP 383)."""


def to_wire(path: str) -> str:
    """A path as text that can be encoded as UTF-8."""
    return "".join(_escaped(sign) for sign in path)


def _escaped(sign: str) -> str:
    if sign == "%":
        return "%25"
    if ord(sign) in _ESCAPED:
        return f"%{ord(sign) - 0xDC00:02X}"
    return sign


def from_wire(text: str) -> str:
    """The path that `to_wire` made the text of."""
    return os.fsdecode(unquote_to_bytes(text))
