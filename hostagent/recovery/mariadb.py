"""MariaDB: a backup stage held over the freeze, crash recovery after, CHECK TABLE.

InnoDB alone would need nothing: the split is one instant, and its redo log brings back every
commit. The stage is for the rest: MyISAM and Aria tables, the system's own among them, are
closed and whole, and no DDL is half way. BACKUP STAGE waits for no reader, unlike FLUSH TABLES
WITH READ LOCK, and commits that it holds back would wait for the frozen file system anyway. It
ends with its session: with the agent, or by wait_timeout when the freeze is over.

Owns the commands and what they say. Fails with HostError.
"""

from __future__ import annotations

import math
import re

from hostagent.errors import HostError, ToolError
from hostagent.programs import Blocking, need_program
from hostagent.recovery.commands import Held, run
from hostagent.recovery.config import MariadbConfig
from hostagent.recovery.recipe import Checked, Place, Quiesced, Recipe

ASK_TIMEOUT_S = 20.0
MAX_PROBLEMS = 20
_HELD = "trilun-holds"
_GRACE_S = 5.0
_CODE = re.compile(r"\bERROR (\d+) ")
_NOT_YET = frozenset({"2002", "2003", "2006", "2013"})
"""No socket, no connection, or cut off while starting (mysqld_error.h, CR_*)."""

_HOLD_SQL = """\
SET SESSION wait_timeout = {wait_s}, lock_wait_timeout = {lock_s};
BACKUP STAGE START;
BACKUP STAGE FLUSH;
BACKUP STAGE BLOCK_DDL;
BACKUP STAGE BLOCK_COMMIT;
SELECT '{held}';
"""
_TABLES_SQL = """\
SELECT table_schema, table_name FROM information_schema.tables
 WHERE table_type IN ('BASE TABLE', 'SEQUENCE')
   AND table_schema NOT IN ('information_schema', 'performance_schema')
 ORDER BY 1, 2;
"""


class Mariadb(Recipe):
    """One server."""

    servers = frozenset({"mariadbd", "mysqld"})
    holds_up = True

    def __init__(self, config: MariadbConfig, place: Place, blocking: Blocking) -> None:
        super().__init__(place, blocking)
        self._config = config

    async def quiesce(self, timeout_s: float, ttl_s: float) -> Quiesced:
        """Go to BLOCK_COMMIT and stay there."""
        script = _HOLD_SQL.format(
            wait_s=math.ceil(ttl_s + _GRACE_S), lock_s=max(1, int(timeout_s)), held=_HELD
        )
        held = await Held.begin(
            [*self._client(), "--unbuffered"], script=script, marker=_HELD, timeout_s=timeout_s
        )
        return Quiesced(
            "BACKUP STAGE BLOCK_COMMIT", held, lambda: held.release("BACKUP STAGE END;\n")
        )

    async def ready(self) -> bool:
        """Whether a statement gets through; raises HostError when we are not let in."""
        try:
            await self._sql("SELECT 1;", ASK_TIMEOUT_S)
        except ToolError as exc:
            code = _CODE.search(exc.output)
            if code is None or code[1] in _NOT_YET:
                return False
            raise HostError(
                exc.message, "see that the agent gets in: `user`, `socket`, `defaults_file`"
            ) from exc
        return True

    async def check(self, *, quick: bool, timeout_s: float) -> Checked:
        """CHECK TABLE for every table."""
        rows = await self._sql(_TABLES_SQL, ASK_TIMEOUT_S)
        tables = [tuple(line.split("\t")) for line in rows.splitlines() if "\t" in line]
        how = " QUICK" if quick else ""
        script = "".join(
            f"CHECK TABLE {_quoted(schema)}.{_quoted(name)}{how};\n" for schema, name in tables
        )
        said = await self._sql(script, timeout_s) if tables else ""
        return Checked(f"CHECK TABLE of {len(tables)} tables", problems_in(said))

    async def _sql(self, script: str, timeout_s: float) -> str:
        return await run(self._client(), script=script, timeout_s=timeout_s)

    def _client(self) -> list[str]:
        config = self._config
        first = "--no-defaults"
        if config.defaults_file is not None:
            first = f"--defaults-file={config.defaults_file}"
        return [
            need_program("mariadb", "mariadb-client"),
            first,
            f"--socket={config.socket}",
            f"--user={config.user}",
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]


def problems_in(said: str) -> list[str]:
    """What CHECK TABLE found, from its rows: table, operation, type of message, message."""
    found = []
    for line in said.splitlines():
        fields = line.split("\t")
        if len(fields) < 4:
            continue
        table, _, kind, message = fields[0], fields[1], fields[2].lower(), fields[3]
        bad_status = kind == "status" and message not in {"OK", "Table is already up to date"}
        if kind in {"error", "warning"} or bad_status:
            found.append(f"{table}: {message}")
    return found[:MAX_PROBLEMS]


def _quoted(name: str) -> str:
    """Batch output escapes backslashes, tabs and line ends; a backtick is doubled."""
    plain = re.sub(r"\\(.)", lambda m: {"t": "\t", "n": "\n", "0": "\0"}.get(m[1], m[1]), name)
    return "`" + plain.replace("`", "``") + "`"
