"""PostgreSQL under load, split in the middle: the restored directory has every commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from hostagent.programs import run_program
from tests.integration.recovery.data_set import (
    DataSet,
    as_user,
    data_set,
    need_host,
    remove,
    run_as,
    short_directory,
)
from tests.integration.recovery.ledger import ClientLoad

pytestmark = [pytest.mark.root, pytest.mark.tools]

USER = "postgres"
PATH = "pg/main"
SETTINGS = (
    "-c listen_addresses= -c shared_buffers=16MB -c max_wal_size=16MB -c log_min_messages=log"
)


def programs() -> Path:
    """The newest release's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not found:
        pytest.skip("needs 'initdb' of the package postgresql")
    return found[0].parent


class Postgres:
    """A cluster of our own on the first volume, run by the agent's commands."""

    def __init__(self, directory: Path) -> None:
        self._bin = programs()
        self._sockets = directory / "pg-run"
        self._log = directory / "pg.log"
        self.data = directory / "host1-files" / PATH

    def section(self) -> str:
        """Its part of host 1's configuration."""
        return f"""
[[data_set.database]]
kind = "postgresql"
path = "{PATH}"
connect = "host={self._sockets} user={USER}"
start = {[*self._control("start")]!r}
stop = {[*self._control("stop")]!r}
"""

    def _control(self, act: str) -> list[str]:
        argv = [*as_user(USER), str(self._bin / "pg_ctl"), "-w", "-s", "-D", str(self.data)]
        if act == "start":
            argv += ["-l", str(self._log), "-o", f"-k {self._sockets} {SETTINGS}"]
        else:
            argv += ["-m", "immediate"] if act == "kill" else ["-m", "fast"]
        return [*argv, "start" if act == "start" else "stop"]

    def make(self) -> None:
        """initdb on the mounted volume, as its own user."""
        run_program(["install", "-d", "-o", USER, str(self.data.parent), str(self._sockets)])
        run_program(["install", "-o", USER, "/dev/null", str(self._log)])
        options = ["-A", "trust", "--data-checksums", "--no-sync", "--wal-segsize=1"]
        run_as(USER, str(self._bin / "initdb"), "-D", str(self.data), *options)
        self.start()
        self.sql("CREATE TABLE kept (n int PRIMARY KEY, filling text)")

    def start(self) -> None:
        run_program(self._control("start"))

    def kill(self) -> None:
        """End it without a checkpoint, if it runs."""
        if (self.data / "postmaster.pid").exists():
            run_program(self._control("kill"), ok=frozenset({0, 1}))

    def client(self) -> list[str]:
        psql = [str(self._bin / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        return [*psql, "-h", str(self._sockets), "-U", USER, "postgres"]

    def sql(self, statement: str) -> str:
        return run_program([*self.client(), "-c", statement])

    def load(self) -> ClientLoad:
        """One row a transaction; psql answers itself once the server has committed."""
        return ClientLoad(
            self.client(),
            lambda n: f"INSERT INTO kept VALUES ({n}, repeat('x', 200));\n\\echo {n}",
        )

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@pytest.fixture
def directory() -> Iterator[Path]:
    need_host()
    programs()
    path = short_directory()
    yield path
    remove(path)


@pytest.fixture
async def postgres(directory: Path) -> Postgres:
    return Postgres(directory)


@pytest.fixture
async def demo(postgres: Postgres, directory: Path) -> AsyncIterator[DataSet]:
    async with data_set(directory, postgres.section()) as made:
        try:
            await asyncio.to_thread(postgres.make)
            yield made
        finally:
            await asyncio.to_thread(postgres.kill)


async def test_every_commit_from_before_the_split_comes_back(
    demo: DataSet, postgres: Postgres
) -> None:
    load = await asyncio.to_thread(postgres.load)
    try:
        await asyncio.to_thread(load.ledger.wait_for, 20)
        at_least = load.ledger.acknowledged
        backup = await demo.backup()
        at_most = load.ledger.begun
        assert backup.state is m.JobState.DONE, f"{backup}\n{demo.logs()}"
        await asyncio.to_thread(load.ledger.wait_for, at_most + 20)
    finally:
        await asyncio.to_thread(load.stop)
    assert backup.receipt is not None
    assert [(one.state, one.done) for one in backup.receipt.databases] == [
        (m.DatabaseState.QUIESCED, "checkpoint")
    ]

    # The accident: the table is dropped, and a file of the catalogue is overwritten.
    await asyncio.to_thread(postgres.sql, "DROP TABLE kept")
    await asyncio.to_thread(postgres.sql, "CREATE TABLE later AS SELECT generate_series(1, 5000)")
    await asyncio.to_thread(postgres.sql, "CHECKPOINT")
    (postgres.data / "global" / "pg_control").write_bytes(b"gone")

    part = await demo.restore(f"{PATH}/base")
    assert (part.state, part.code) == (m.JobState.FAILED, Code.BAD_REQUEST)
    assert f"belong together: {PATH}" in part.error
    assert f"trilun restore --data-set demo --conflict overwrite {PATH}" in part.next_step

    info = await demo.restore(PATH)
    assert info.state is m.JobState.DONE, f"{info}\n{demo.logs()}\n{postgres.log()}"
    assert info.receipt is not None
    (database,) = info.receipt.databases
    assert database.state is m.DatabaseState.GOOD, database
    assert database.done.startswith("amcheck of ")
    rows = await asyncio.to_thread(postgres.sql, "SELECT n FROM kept ORDER BY n")
    load.ledger.judge([int(line) for line in rows.split()], at_least, at_most)
    gone = "SELECT to_regclass('later') IS NULL"
    assert await asyncio.to_thread(postgres.sql, gone) == "t"
    extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'"
    assert await asyncio.to_thread(postgres.sql, extensions) == "0", "the check leaves nothing"

    # A check that finds nothing proves nothing unless it can find.
    table = await asyncio.to_thread(postgres.sql, "SELECT pg_relation_filepath('kept')")
    # Else recovery would write the page anew from the log.
    await asyncio.to_thread(postgres.sql, "CHECKPOINT")
    await asyncio.to_thread(postgres.kill)
    with (postgres.data / table).open("r+b") as file:
        file.seek(4000)
        file.write(b"torn" * 100)
    found = await demo.checked()
    assert found.state is m.DatabaseState.FAILED
    assert "postgres: public.kept: " in found.error
    assert "`trilun db check demo`" in found.next_step
