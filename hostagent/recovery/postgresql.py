"""PostgreSQL: a checkpoint before the freeze, crash recovery after, amcheck.

Before a freeze a CHECKPOINT is all: the split is one instant of the whole data directory, WAL
included, and from such an image crash recovery brings back every commit. Backup mode
(pg_backup_start) is for copies that take their time; it would add nothing but a label file to
be put back at a restore. The checkpoint makes recovery, and the freeze's own writing, short.

Owns the commands and what they say. Must not touch files but a stale postmaster.pid. Fails with
HostError.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostagent.copying.beneath import joined, open_beneath
from hostagent.errors import HostError, ToolError
from hostagent.programs import Blocking, find_program, need_program
from hostagent.recovery.commands import run
from hostagent.recovery.config import PostgresqlConfig
from hostagent.recovery.recipe import Checked, Place, Quiesced, Recipe

_DEBIAN_BIN = Path("/usr/lib/postgresql")
PID_FILE = "postmaster.pid"
ASK_TIMEOUT_S = 20.0
MAX_PROBLEMS = 20
_FROM_BEFORE = 14
"""amcheck looks into tables since that release."""

# All of it in one transaction that is rolled back: the extension is gone again afterwards.
CHECK_SQL = """\
SET client_min_messages = error;
SET statement_timeout = {timeout_ms};
BEGIN ISOLATION LEVEL READ COMMITTED;
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT set_config('search_path', quote_ident(n.nspname) || ', pg_catalog, pg_temp', true)
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'amcheck' \\g /dev/null
CREATE TEMP TABLE trilun_found (number serial, line text) ON COMMIT DROP;
DO $check$
DECLARE
  one record;
  count_checked bigint := 0;
BEGIN
  FOR one IN
    SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = c.relam
      LEFT JOIN pg_index i ON i.indexrelid = c.oid
     WHERE c.relpersistence = 'p' AND (
       (c.relkind IN ('r', 't', 'm') AND a.amname = 'heap') OR
       (c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid AND i.indisready))
     ORDER BY c.oid
  LOOP
    BEGIN
      IF one.relkind = 'i' THEN
        PERFORM bt_index_check(one.oid::regclass, {whole});
      ELSIF {has_heap} THEN
        INSERT INTO trilun_found (line)
          SELECT format('%s: block %s, item %s: %s', one.name, h.blkno, h.offnum, h.msg)
            FROM verify_heapam(one.oid::regclass, check_toast => {whole}) h LIMIT {max_problems};
      ELSE
        EXECUTE format('SELECT count(*) FROM %s', one.name);
      END IF;
    EXCEPTION WHEN OTHERS THEN
      INSERT INTO trilun_found (line) VALUES (format('%s: %s', one.name, SQLERRM));
    END;
    count_checked := count_checked + 1;
  END LOOP;
  INSERT INTO trilun_found (line) VALUES ('checked ' || count_checked);
END
$check$;
SELECT translate(line, E'\\n', ' ') FROM trilun_found ORDER BY number DESC LIMIT {max_problems} + 1;
ROLLBACK;
"""


class Postgresql(Recipe):
    """One cluster."""

    servers = frozenset({"postgres", "postmaster"})

    def __init__(self, config: PostgresqlConfig, place: Place, blocking: Blocking) -> None:
        super().__init__(place, blocking)
        self._config = config

    async def quiesce(self, timeout_s: float, ttl_s: float) -> Quiesced:
        """CHECKPOINT; nothing is held."""
        del ttl_s
        await self._sql("CHECKPOINT;", "postgres", timeout_s)
        return Quiesced("checkpoint")

    async def prepare_start(self) -> None:
        """A postmaster.pid from the instant of the backup names a process of then."""
        stale = await self.blocking.run(stale_pid_file, self.place)
        if stale is not None:
            argv = [need_program("rm", "coreutils"), "-f", "--", str(stale)]
            await run(argv, timeout_s=ASK_TIMEOUT_S)

    async def ready(self) -> bool:
        """Asks pg_isready, then whether we are let in."""
        ask = [self._program("pg_isready"), "-q", "-t", "5", "-d", self._config.connect]
        try:
            await run(ask, timeout_s=ASK_TIMEOUT_S)
        except ToolError:
            return False
        await self._sql("SELECT 1;", "postgres", ASK_TIMEOUT_S)
        return True

    async def check(self, *, quick: bool, timeout_s: float) -> Checked:
        """Every table and B-tree of every database, by amcheck; where that isn't installed,
        every row is read (pg_dump), which data checksums are verified by."""
        facts = await self._sql(
            "SELECT current_setting('server_version_num')::int / 10000;"
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck';"
            "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1;",
            "postgres",
            ASK_TIMEOUT_S,
        )
        release, available, *databases = facts.splitlines()
        if int(available) == 0:
            return await self._read_all(databases, timeout_s)
        script = CHECK_SQL.format(
            timeout_ms=int(timeout_s * 1000),
            whole="false" if quick else "true",
            has_heap="true" if int(release) >= _FROM_BEFORE else "false",
            max_problems=MAX_PROBLEMS,
        )
        problems: list[str] = []
        checked = 0
        for name in databases:
            said = await self._sql(script, name, timeout_s)
            count, *found = said.splitlines()
            checked += int(count.removeprefix("checked "))
            problems += [f"{name}: {line}" for line in reversed(found)]
        return Checked(f"amcheck of {checked} tables and indexes", problems)

    async def _read_all(self, databases: list[str], timeout_s: float) -> Checked:
        problems: list[str] = []
        for name in databases:
            argv = [self._program("pg_dump"), "-f", "/dev/null", "-d", self._conninfo(name)]
            try:
                await run(argv, timeout_s=timeout_s)
            except ToolError as exc:
                problems.append(f"{name}: {exc.message}")
        return Checked(f"pg_dump of {len(databases)} databases", problems)

    async def _sql(self, script: str, database: str, timeout_s: float) -> str:
        argv = [self._program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        try:
            return await run(
                [*argv, "-d", self._conninfo(database)], script=script, timeout_s=timeout_s
            )
        except ToolError as exc:
            raise HostError(
                exc.message,
                exc.next_step
                or "see that the agent gets in as a superuser: `connect` in its configuration",
            ) from exc

    def _conninfo(self, database: str) -> str:
        """libpq takes the last of a keyword's values; an own dbname is for `postgres` only."""
        quoted = database.replace("\\", "\\\\").replace("'", "\\'")
        if database == "postgres" and "dbname" in self._config.connect:
            return self._config.connect
        return f"{self._config.connect} dbname='{quoted}'"

    def _program(self, name: str) -> str:
        if self._config.bin_dir is not None:
            return str(self._config.bin_dir / name)
        newest = sorted(
            _DEBIAN_BIN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]), reverse=True
        )
        found = str(newest[0]) if newest else find_program(name)
        if found is None:
            raise ToolError(f"'{name}' is not installed", "install the package postgresql-client")
        return found


def stale_pid_file(place: Place) -> Path | None:
    """postmaster.pid, unless its process has this very data directory; blocks."""
    root_fd = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = joined(place.path, PID_FILE)
        fd = open_beneath(root_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    finally:
        os.close(root_fd)
    with os.fdopen(fd, "rb") as file:
        first = file.readline(64).strip()
    return None if _serves(first, place.directory) else place.root / path


def _serves(pid: bytes, directory: Path) -> bool:
    """The postmaster's working folder is its data directory."""
    if not pid.isdigit():
        return False
    try:
        return Path(f"/proc/{int(pid)}/cwd").samefile(directory)
    except OSError:
        return False
