"""Who serves a database: the processes with its directory as their folder, or its files open.

Owns the search through /proc, kept to what is cheap, because backups wait for it: names first,
no maps. Must not touch the file system itself. What we may not look at is left out. Blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAX_NAMED = 20


def users_of(path: Path, names: frozenset[str]) -> list[str]:
    """Processes of these names (none: of any) that use `path` or what is beneath it."""
    base = os.path.realpath(path)
    # What a file's companions are called begins with its own name: `app.db-wal`.
    inside = (f"{base}/", f"{base}-")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if names and name not in names:
            continue
        if any(held == base or held.startswith(inside) for held in _held(process)):
            found.append(f"{name} (pid {process.name})")
            if len(found) == MAX_NAMED:
                break
    return found


def _held(process: Path) -> Iterator[str]:
    links = [process / "cwd"]
    with suppress(OSError):  # gone, or not ours to look at
        links += (process / "fd").iterdir()
    for link in links:
        try:
            yield str(link.readlink())
        except OSError:
            continue
