"""Text keys: `key=value` pairs ended by NUL (RFC 7143, 6.1), and binary values in them.

Owns the encoding and its limits. Must not know what a key means. Fails with `TextError`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

MAX_TEXT_BYTES = 64 << 10
MAX_KEYS = 128
MAX_KEY_CHARS = 63
MAX_VALUE_BYTES = 8192

Pairs = list[tuple[str, str]]

_KEY = re.compile(r"[A-Z][A-Za-z0-9.\-+@_]{0,62}|#[A-Za-z0-9.\-+@_#]{0,62}")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}")


class TextError(ValueError):
    """The text is not a list of well-formed keys."""


def decode(data: bytes) -> Pairs:
    """The pairs in `data`; raises `TextError` for bad keys, repeated keys or broken limits."""
    if len(data) > MAX_TEXT_BYTES:
        raise TextError("text too long")
    pairs: Pairs = []
    seen: set[str] = set()
    for item in data.split(b"\0"):
        if not item:
            continue
        try:
            key, separator, value = item.decode("utf-8").partition("=")
        except UnicodeDecodeError as error:
            raise TextError("text is not UTF-8") from error
        if not separator or not _KEY.fullmatch(key):
            raise TextError("malformed key")
        if len(value) > MAX_VALUE_BYTES:
            raise TextError(f"value of {key} too long")
        if key in seen:
            raise TextError(f"{key} given twice")
        seen.add(key)
        pairs.append((key, value))
        if len(pairs) > MAX_KEYS:
            raise TextError("too many keys")
    return pairs


def encode(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The pairs as they travel."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)


def number(value: str) -> int:
    """A decimal or hexadecimal constant; raises `TextError`."""
    if not _NUMBER.fullmatch(value):
        raise TextError(f"not a number: {value[:40]!r}")
    return int(value, 16) if value[:2] in {"0x", "0X"} else int(value)


def binary(value: str) -> bytes:
    """A binary value, `0x` hexadecimal or `0b` base 64; raises `TextError`."""
    prefix, digits = value[:2].lower(), value[2:]
    try:
        if prefix == "0x":
            return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
        if prefix == "0b":
            return base64.b64decode(digits, validate=True)
    except (ValueError, binascii.Error) as error:
        raise TextError("malformed binary value") from error
    raise TextError("binary value without prefix")


def hexadecimal(value: bytes) -> str:
    """A binary value as hexadecimal constant."""
    return "0x" + value.hex()
