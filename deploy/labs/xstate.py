"""What user-mode Linux needs on a processor with more registers than it knows.

Owns that choice, and the library that `xstate.c` becomes; the reason is told there. Fails with
LabError that quotes the compiler.
"""

from __future__ import annotations

from pathlib import Path

from deploy.labs.problem import LabError
from deploy.labs.process import call

SOURCE = Path(__file__).with_suffix(".c")
CPUINFO = Path("/proc/cpuinfo")


def is_needed(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has AMX, as Intel's servers have since 2023."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    return any(line.startswith("flags") and "amx_tile" in line.split() for line in lines)


def environment(directory: Path) -> dict[str, str]:
    """What the kernel's process has to be started with; the library is made in `directory`."""
    if not is_needed():
        return {}
    library = directory / "xstate.so"
    if set(str(library)) & {" ", ":"}:
        # ld.so(8) takes them for the end of a name.
        raise LabError(
            f"{directory} has a space or a colon in its name", "TRILUN_LAB names another"
        )
    fresh = library.with_suffix(".new")
    call("cc", "-O2", "-shared", "-fPIC", "-o", str(fresh), str(SOURCE))
    fresh.replace(library)
    return {"LD_PRELOAD": str(library)}
