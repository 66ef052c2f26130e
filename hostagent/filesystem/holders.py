"""Who keeps a file system busy.

Owns the search through /proc: open files, working folders, roots and mapped files. Must not
touch the file system itself, which may be frozen or dead: only link texts are read. What we may
not look at (other users' processes, unless root) is left out. Blocks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MAX_HOLDERS = 20


def holders_of(mountpoint: Path) -> list[str]:
    """Processes that hold something beneath `mountpoint`, as `name (pid 123, /path)`."""
    base = os.path.realpath(mountpoint)
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        held = next((path for path in _held(process) if _beneath(path, base)), None)
        if held is not None:
            found.append(f"{_name(process)} (pid {process.name}, {held})")
            if len(found) == MAX_HOLDERS:
                break
    return found


def _beneath(path: str, base: str) -> bool:
    return path == base or path.startswith(base + "/")


def _held(process: Path) -> Iterator[str]:
    links = [process / "cwd", process / "root", process / "exe"]
    with contextlib.suppress(OSError):  # gone, or not ours to look at
        links += sorted((process / "fd").iterdir())
    for link in links:
        try:
            yield str(link.readlink())
        except OSError:
            continue
    try:
        with (process / "maps").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split(maxsplit=5)
                if len(fields) == 6:
                    yield fields[5].strip()
    except OSError:
        return


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"
