"""SQLite under load, split in the middle: the file and its log come back together."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from hostagent.programs import find_program, run_program
from tests.integration.recovery.data_set import (
    DataSet,
    data_set,
    need_host,
    remove,
    short_directory,
)
from tests.integration.recovery.ledger import Ledger

pytestmark = [pytest.mark.root, pytest.mark.tools]

PATH = "app/app.db"
OWNER = 65534
SECTION = f"""
[[data_set.database]]
kind = "sqlite"
name = "app"
path = "{PATH}"
"""


class Load(threading.Thread):
    """A program that commits one row after the other, in WAL mode with full syncs."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="load")
        self.ledger = Ledger()
        self.stopping = threading.Event()
        self._path = path

    def run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=20)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # The log keeps what the backup does not bring into the file.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE kept (n INTEGER PRIMARY KEY, filling TEXT)")
        while not self.stopping.is_set():
            number = self.ledger.begun + 1
            self.ledger.begun = number
            connection.execute("INSERT INTO kept VALUES (?, ?)", (number, "x" * 200))
            self.ledger.acknowledge(number)
        # Closed by its end alone, as a killed program does, the log stays beside the file.
        shutil.copy(f"{self._path}-wal", f"{self._path}-kept")
        connection.close()
        Path(f"{self._path}-kept").replace(f"{self._path}-wal")


@pytest.fixture
def directory() -> Iterator[Path]:
    need_host()
    if find_program("sqlite3") is None:
        pytest.skip("needs 'sqlite3' of the package sqlite3")
    path = short_directory()
    yield path
    remove(path)


@pytest.fixture
async def demo(directory: Path) -> AsyncIterator[DataSet]:
    async with data_set(directory, SECTION) as made:
        yield made


async def test_every_commit_from_before_the_split_comes_back(demo: DataSet) -> None:
    path = demo.mountpoint / PATH
    path.parent.mkdir()
    os.chown(path.parent, OWNER, OWNER)
    path.touch()
    os.chown(path, OWNER, OWNER)
    load = Load(path)
    load.start()
    try:
        await asyncio.to_thread(load.ledger.wait_for, 20)
        at_least = load.ledger.acknowledged
        backup = await demo.backup()
        at_most = load.ledger.begun
        assert backup.state is m.JobState.DONE, f"{backup}\n{demo.logs()}"
        await asyncio.to_thread(load.ledger.wait_for, at_most + 20)
    finally:
        load.stopping.set()
        await asyncio.to_thread(load.join)
    assert backup.receipt is not None
    (prepared,) = backup.receipt.databases
    assert prepared.state is m.DatabaseState.QUIESCED
    assert prepared.done.startswith("checkpoint of ")

    # The accident: pages of the file are overwritten; a log of later lies beside it.
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))

    part = await demo.restore(PATH)
    assert (part.state, part.code) == (m.JobState.FAILED, Code.BAD_REQUEST)
    assert f"belong together: {PATH} + {PATH}-wal" in part.error

    info = await demo.restore(PATH, f"{PATH}-wal")
    assert info.state is m.JobState.DONE, f"{info}\n{demo.logs()}"
    assert info.receipt is not None
    (database,) = info.receipt.databases
    assert (database.state, database.done) == (m.DatabaseState.GOOD, "integrity_check"), database
    sqlite = [str(find_program("sqlite3")), str(path)]
    assert run_program([*sqlite, "PRAGMA integrity_check"]) == "ok"
    rows = run_program([*sqlite, "SELECT n FROM kept ORDER BY n"])
    load.ledger.judge([int(line) for line in rows.split()], at_least, at_most)
    assert {file.stat().st_uid for file in path.parent.iterdir()} == {OWNER}
