"""What recipes make of files and of what servers say; and programs that don't behave."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from hostagent.errors import ToolError
from hostagent.programs import Blocking
from hostagent.recovery.commands import Held, run
from hostagent.recovery.mariadb import problems_in
from hostagent.recovery.postgresql import stale_pid_file
from hostagent.recovery.recipe import Place
from hostagent.recovery.sqlite import Sqlite


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT UNIQUE)")
        rows = [(n, f"{n:0100}") for n in range(500)]
        connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    connection.close()
    return path


def sqlite_of(path: Path, blocking: Blocking) -> Sqlite:
    return Sqlite(Place("ds", path.parent, path.name), blocking)


async def test_sqlite_good_and_torn(app: Path, blocking: Blocking) -> None:
    recipe = sqlite_of(app, blocking)
    assert (await recipe.check(quick=False, timeout_s=20)).problems == []
    with app.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\0" * 8192)
    assert (await recipe.check(quick=False, timeout_s=20)).problems


async def test_sqlite_that_is_none(tmp_path: Path, blocking: Blocking) -> None:
    (tmp_path / "app.db").write_bytes(b"no database" * 1000)
    found = await sqlite_of(tmp_path / "app.db", blocking).check(quick=True, timeout_s=20)
    assert found.problems == ["file is not a database"]


async def test_sqlite_holds_readers_place_and_no_writer(app: Path, blocking: Blocking) -> None:
    connection = sqlite3.connect(app, isolation_level=None, timeout=0)
    connection.execute("INSERT INTO t VALUES (1000, 'before')")
    quiesced = await sqlite_of(app, blocking).quiesce(timeout_s=20, ttl_s=20)
    assert "read lock" in quiesced.done
    assert quiesced.holds
    connection.execute("INSERT INTO t VALUES (1001, 'meanwhile')")
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    assert busy == 1, "the log is not begun anew beneath the freeze"
    assert quiesced.release is not None
    await quiesced.release()
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    assert busy == 0
    connection.close()


async def test_what_sqlite_holds_ends_by_itself(app: Path, blocking: Blocking) -> None:
    quiesced = await sqlite_of(app, blocking).quiesce(timeout_s=20, ttl_s=0.1)
    async with asyncio.timeout(20):
        while quiesced.holds:  # noqa: ASYNC110 - a process ends
            await asyncio.sleep(0.01)


async def test_a_rollback_journal_needs_nothing_held(tmp_path: Path, blocking: Blocking) -> None:
    path = tmp_path / "plain.db"
    sqlite3.connect(path).executescript("CREATE TABLE t (n)").connection.close()
    quiesced = await sqlite_of(path, blocking).quiesce(timeout_s=20, ttl_s=20)
    assert quiesced.done.startswith("nothing")
    assert quiesced.release is not None
    await quiesced.release()


@pytest.mark.parametrize("content", [None, b"", b"what?\n", b"4194305\n/srv/db\n"])
def test_a_postmasters_file_of_then_is_stale(tmp_path: Path, content: bytes | None) -> None:
    place = Place("ds", tmp_path, "pg")
    (tmp_path / "pg").mkdir()
    if content is None:
        assert stale_pid_file(place) is None
        return
    (tmp_path / "pg/postmaster.pid").write_bytes(content)
    assert stale_pid_file(place) == tmp_path / "pg/postmaster.pid"


def test_a_postmasters_file_of_now_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert stale_pid_file(Place("ds", tmp_path, "")) is not None
    monkeypatch.chdir(tmp_path)
    assert stale_pid_file(Place("ds", tmp_path, "")) is None


def test_what_check_table_says() -> None:
    said = (
        "shop.a\tcheck\tstatus\tOK\n"
        "shop.b\tcheck\twarning\t1 client is using or hasn't closed the table properly\n"
        "shop.b\tcheck\tstatus\tOK\n"
        "shop.c\tcheck\tError\tIncorrect key file\n"
        "shop.c\tcheck\tstatus\tOperation failed\n"
        "shop.d\tcheck\tnote\tThe storage engine for the table doesn't support check\n"
    )
    assert problems_in(said) == [
        "shop.b: 1 client is using or hasn't closed the table properly",
        "shop.c: Incorrect key file",
        "shop.c: Operation failed",
    ]


# ---------------------------------------------------------------- programs


async def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    # The reading end of a fifo ends when the last of its writers does.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ToolError, match=r"'sh' did not end within"):
            await run(["sh", "-c", f"sleep 600 >{fifo} & wait"], timeout_s=1)
        async with asyncio.timeout(20):
            while not _ended(reading):  # noqa: ASYNC110 - the kernel closes it
                await asyncio.sleep(0.01)
    finally:
        os.close(reading)


def _ended(reading: int) -> bool:
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


async def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(ToolError, match=r"sh failed \(3\): no luck"):
        await run(["sh", "-c", "echo no luck; exit 3"], timeout_s=10)
    with pytest.raises(ToolError, match="is not there"):
        await run(["/nowhere/psql"], timeout_s=10)


async def test_input_goes_in_and_output_comes_out() -> None:
    text = "line\n" * 100_000
    assert await run(["cat"], script=text, timeout_s=20) == text.strip()


async def test_a_server_left_behind_may_keep_the_output() -> None:
    argv = ["sh", "-c", "sleep 600 & echo $!"]
    pid = int(await run(argv, timeout_s=10, keeps_running=True))
    os.kill(pid, 9)


async def test_what_never_says_that_it_holds_is_ended() -> None:
    with pytest.raises(ToolError, match="was not ready within"):
        await Held.begin(["cat"], script="", marker="held", timeout_s=0.2)
    with pytest.raises(ToolError, match="failed: no way"):
        await Held.begin(["echo", "no way"], script="", marker="held", timeout_s=10)


async def test_what_says_something_else_is_ended() -> None:
    argv = ["sh", "-c", "echo $$; exec >&- 2>&-; exec sleep 600"]
    with pytest.raises(ToolError) as caught:
        await Held.begin(argv, script="", marker="held", timeout_s=10)
    with pytest.raises(ProcessLookupError):
        os.kill(int(caught.value.output), 0)


async def test_what_is_held_ends_with_its_input() -> None:
    held = await Held.begin(["cat"], script="held so\n", marker="held", timeout_s=10)
    assert (held.said, held.holds) == ("so", True)
    await held.release("bye\n")
    assert not held.holds
