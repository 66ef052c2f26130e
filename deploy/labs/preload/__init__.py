"""What is put between user-mode Linux and the C library: its 6.1 is older than today's processors.

Owns the library that the C files here become; each tells its reason. Fails with LabError that
quotes the compiler.
"""

from __future__ import annotations

from pathlib import Path

from deploy.labs.problem import LabError
from deploy.labs.process import call

SOURCES = sorted(Path(__file__).parent.glob("*.c"))


def environment(directory: Path) -> dict[str, str]:
    """What the kernel's process has to be started with; the library is made in `directory`."""
    library = directory / "preload.so"
    if set(str(library)) & {" ", ":"}:
        # ld.so(8) takes them for the end of a name.
        raise LabError(
            f"{directory} has a space or a colon in its name", "TRILUN_LAB names another"
        )
    fresh = library.with_suffix(".new")
    call("cc", "-O2", "-shared", "-fPIC", "-o", str(fresh), *map(str, SOURCES))
    fresh.replace(library)
    return {"LD_PRELOAD": str(library)}
