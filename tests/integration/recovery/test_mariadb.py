"""MariaDB under load, split in the middle: InnoDB has every commit, MyISAM is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller.api import messages as m
from hostagent.programs import find_program, run_program
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

USER = "mysql"
PATH = "mysql"
SETTINGS = [
    "--no-defaults",
    "--skip-networking",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=4M",
    # Else a table that was not closed is repaired in silence when it is opened.
    "--myisam-recover-options=OFF",
]


class Mariadb:
    """A server of our own on the first volume, run by the agent's commands."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "my-run" / "my.sock"
        self._log = directory / "my.log"
        self.data = directory / "host1-files" / PATH

    def section(self) -> str:
        """Its part of host 1's configuration."""
        return f"""
[[data_set.database]]
kind = "mariadb"
path = "{PATH}"
socket = "{self._socket}"
start = {self._start()!r}
stop = {self._stop()!r}
"""

    def _start(self) -> list[str]:
        server = [*as_user(USER), str(find_program("mariadbd")), *SETTINGS]
        server += [f"--datadir={self.data}", f"--socket={self._socket}"]
        return ["sh", "-c", f"{' '.join(server)} >>{self._log} 2>&1 &"]

    def _stop(self) -> list[str]:
        program = str(find_program("mariadb-admin"))
        return [program, "--no-defaults", f"--socket={self._socket}", "--user=root", "shutdown"]

    def make(self) -> None:
        """The system's tables on the mounted volume, and ours."""
        run_program(["install", "-d", "-o", USER, str(self.data), str(self._socket.parent)])
        run_as(
            USER,
            "mariadb-install-db",
            *SETTINGS,
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        self.start()
        self.sql("CREATE DATABASE shop")
        self.sql("CREATE TABLE shop.kept (n int PRIMARY KEY, filling text) ENGINE=InnoDB")
        self.sql("CREATE TABLE shop.aside (n int PRIMARY KEY, filling text) ENGINE=MyISAM")

    def start(self) -> None:
        run_program(self._start())
        ping = [*self._stop()[:-1], "--wait=20", "ping"]
        run_program(ping)

    def stop(self) -> None:
        """End it, if it runs."""
        run_program(self._stop(), ok=frozenset({0, 1}))

    def client(self) -> list[str]:
        program = str(find_program("mariadb"))
        options = ["--no-defaults", "--batch", "--skip-column-names", "--unbuffered"]
        return [program, *options, f"--socket={self._socket}", "--user=root"]

    def sql(self, statement: str) -> str:
        return run_program([*self.client(), "-e", statement])

    def load(self) -> ClientLoad:
        """A row in each table; the number is said once both are in."""
        return ClientLoad(
            self.client(),
            lambda n: (
                f"INSERT INTO shop.aside VALUES ({n}, repeat('y', 200));"
                f"INSERT INTO shop.kept VALUES ({n}, repeat('x', 200));"
                f"SELECT {n};"
            ),
        )

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@pytest.fixture
def directory() -> Iterator[Path]:
    need_host()
    for program in ("mariadbd", "mariadb", "mariadb-install-db", "mariadb-admin"):
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package mariadb-server")
    path = short_directory()
    yield path
    remove(path)


@pytest.fixture
async def mariadb(directory: Path) -> Mariadb:
    return Mariadb(directory)


@pytest.fixture
async def demo(mariadb: Mariadb, directory: Path) -> AsyncIterator[DataSet]:
    async with data_set(directory, mariadb.section()) as made:
        try:
            await asyncio.to_thread(mariadb.make)
            yield made
        finally:
            await asyncio.to_thread(mariadb.stop)


async def test_every_commit_from_before_the_split_comes_back(
    demo: DataSet, mariadb: Mariadb
) -> None:
    load = await asyncio.to_thread(mariadb.load)
    try:
        await asyncio.to_thread(load.ledger.wait_for, 20)
        at_least = load.ledger.acknowledged
        backup = await demo.backup()
        at_most = load.ledger.begun
        assert backup.state is m.JobState.DONE, f"{backup}\n{demo.logs()}\n{mariadb.log()}"
        await asyncio.to_thread(load.ledger.wait_for, at_most + 20)
    finally:
        await asyncio.to_thread(load.stop)
    assert backup.receipt is not None
    assert [(one.state, one.done) for one in backup.receipt.databases] == [
        (m.DatabaseState.QUIESCED, "BACKUP STAGE BLOCK_COMMIT")
    ]

    # The accident: the schema is dropped, another is made, and the system's space is damaged.
    await asyncio.to_thread(mariadb.sql, "DROP DATABASE shop; CREATE DATABASE later")
    await asyncio.to_thread(mariadb.sql, "CREATE TABLE later.rows (n int) ENGINE=InnoDB")
    with (mariadb.data / "mysql" / "global_priv.MAD").open("r+b") as file:
        file.write(b"gone" * 1024)

    info = await demo.restore(PATH)
    assert info.state is m.JobState.DONE, f"{info}\n{demo.logs()}\n{mariadb.log()}"
    assert info.kind is m.JobKind.RESTORE, "the whole volume would come back exactly anyway"
    assert info.receipt is not None
    (database,) = info.receipt.databases
    assert database.state is m.DatabaseState.GOOD, database
    assert database.done.startswith("CHECK TABLE of ")
    for table in ("kept", "aside"):
        rows = await asyncio.to_thread(mariadb.sql, f"SELECT n FROM shop.{table} ORDER BY n")
        load.ledger.judge([int(line) for line in rows.split()], at_least, at_most)
    assert await asyncio.to_thread(mariadb.sql, "SHOW DATABASES LIKE 'later'") == ""
    assert not (mariadb.data / "later").exists()

    # A check that finds nothing proves nothing unless it can find.
    await asyncio.to_thread(mariadb.stop)
    with (mariadb.data / "shop/aside.MYD").open("r+b") as file:
        file.write(b"torn" * 100)
    found = await demo.checked()
    assert found.state is m.DatabaseState.FAILED
    assert "shop.aside: " in found.error
    assert "`trilun db check demo`" in found.next_step
