"""Byte sizes as people write them: `1GiB`, `512MiB`, `4096`.

Owns the one grammar of sizes, for configuration files and the command line alike. Must not
round: a size is taken exactly or refused. Fails with ValueError, in one sentence.
"""

from __future__ import annotations

import re

_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"^\s*([0-9]{1,20})(?:\.([0-9]{1,6}))?\s*(?:([KMGTP])(iB)?|B)?\s*$")
_DECIMAL = re.compile(r"^\s*[0-9]+(\.[0-9]+)?\s*[kKMGTP]B\s*$")


def parse_size(text: str) -> int:
    """Bytes from `1GiB`, `1G` (the same), `1.5GiB` or `4096`; raises ValueError otherwise.

    Units are powers of 1024 (IEC 80000-13). `GB` is refused rather than guessed at: some mean
    powers of 1000 by it, some of 1024, and a volume's size is for ever.
    """
    if _DECIMAL.match(text):
        raise ValueError(f"'{text.strip()}' is ambiguous: write KiB, MiB, GiB or TiB")
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"'{text.strip()}' is not a size: write 4096, 512MiB or 1GiB")
    whole, fraction, unit, _ = match.groups()
    scale: int = 1024 ** _POWER[unit or ""]
    size = int(whole) * scale
    if fraction:
        part, rest = divmod(int(fraction) * scale, 10 ** len(fraction))
        if rest:
            raise ValueError(f"'{text.strip()}' is not a whole number of bytes")
        size += part
    return size


def format_size(size_bytes: float) -> str:
    """A size for people, at most one decimal: `1 GiB`, `1.5 MiB`, `512 B`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            return _with_unit(value, unit)
        value /= 1024
    return _with_unit(value, "PiB")


def exact_size(size_bytes: int) -> str:
    """A size that `parse_size` reads back as the same number: `1GiB`, or plain bytes."""
    for unit, power in (("T", 4), ("G", 3), ("M", 2), ("K", 1)):
        scale = 1024**power
        if size_bytes and size_bytes % scale == 0:
            return f"{size_bytes // scale}{unit}iB"
    return str(size_bytes)


def _with_unit(value: float, unit: str) -> str:
    digits = f"{value:.1f}".removesuffix(".0")
    return f"{digits} {unit}"
