"""Which boot of the machine this is.

Owns the two places that tell: the unit's environment, because its sandbox hides /proc/sys from the
controller (ProcSubset=pid), and the kernel's file everywhere else. Both give the same text. Must
not make one up: who can't tell has to say so. Fails with OSError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VARIABLE = "TRILUN_BOOT_ID"
"""Set by the unit to `%b` (systemd.unit(5))."""
KERNEL = Path("/proc/sys/kernel/random/boot_id")


def boot_id(environ: Mapping[str, str], kernel: Path = KERNEL) -> str:
    """32 hexadecimal digits that are new with each boot (random(4))."""
    told = environ.get(VARIABLE) or kernel.read_text(encoding="ascii")
    return told.strip().replace("-", "")
