"""SQLite: a checkpoint under a read lock before the freeze, an integrity check after.

A crash image of the file with its -wal or -journal is whole by itself. In WAL mode the
checkpoint brings what it can into the file without making a writer wait, and the read lock keeps
the log from starting over. With a rollback journal nothing is held: a lock would fail the
commits of a program that doesn't expect one, where a freeze only makes them wait.

Owns which program is run (`sqlite_program`) and what it says. Recovery is SQLite's own, when the
file is first opened. Fails with HostError.
"""

from __future__ import annotations

import sys

from hostagent.errors import HostError, ToolError
from hostagent.recovery import sqlite_program
from hostagent.recovery.commands import Held, run
from hostagent.recovery.recipe import Checked, Quiesced, Recipe

_HOLDS = "holds"
_CHECKED = "checked"


class Sqlite(Recipe):
    """One file."""

    async def quiesce(self, timeout_s: float, ttl_s: float) -> Quiesced:
        """Checkpoint, and hold a read transaction."""
        busy_s = max(0.1, timeout_s - 1.0)
        held = await Held.begin(
            self._program("hold", str(busy_s), str(ttl_s)),
            script="",
            marker=_HOLDS,
            timeout_s=timeout_s,
        )
        return Quiesced(held.said, held, held.release)

    async def check(self, *, quick: bool, timeout_s: float) -> Checked:
        """PRAGMA quick_check or integrity_check."""
        depth = "quick" if quick else "full"
        try:
            said = await run(self._program("check", depth), timeout_s=timeout_s)
        except ToolError as exc:
            if not exc.output:
                raise
            # SQLite's own words: `file is not a database`, `database disk image is malformed`.
            return Checked(f"{depth} check", exc.output.splitlines())
        lines = said.splitlines()
        if not lines or lines.pop() != _CHECKED:
            raise HostError("the check of SQLite ended in its middle", "check it again")
        return Checked("quick_check" if quick else "integrity_check", lines)

    def _program(self, act: str, *rest: str) -> list[str]:
        program = sqlite_program.__file__
        assert program is not None
        return [sys.executable, "-I", "-S", program, act, str(self.place.directory), *rest]
