"""How long the lab's four hosts take to be up, and what memory their kernels hold then.

Owns a lab of its own, in a temporary directory; installing trilun for it is part of the time, as it
is of `deploy/lab up`'s. A kernel's memory is what its host was given and has touched: the kernel is
told no more (`mem=`), so that is bounded by what docs/lab.md names.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from deploy.labs import roles
from deploy.labs.host import MEMORY_MIB, Host
from deploy.labs.lab import Lab
from deploy.labs.problem import LabError
from deploy.labs.terminated import unwound


def resident_mib(host: Host) -> float:
    """Resident size of a host's kernel: its memory is a file that it maps."""
    process = host.process
    if process is None:
        raise LabError(f"{host.name} has no power")
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    if found is None:
        raise LabError(f"the kernel of {host.name} has ended")
    return int(found[1]) / 1024


def measure_lab(directory: Path) -> dict[str, dict[str, float]]:
    """Boot four hosts."""
    with unwound():
        began_s = time.monotonic()
        try:
            lab = Lab.up(directory / "lab", list(roles.USUAL), "lio")
            up_s = time.monotonic() - began_s
            resident = {host.name: resident_mib(host) for host in lab.hosts.values()}
        finally:
            Lab.down(directory / "lab")
    return {
        "four hosts": {
            "seconds": up_s,
            "MiB resident": sum(resident.values()),
            "MiB at most": float(len(resident) * MEMORY_MIB),
        },
        **{name: {"MiB resident": mib} for name, mib in resident.items()},
    }
