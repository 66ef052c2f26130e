"""What is done with a SQLite file, as a program of its own: `sqlite_program.py ACT PATH …`.

Owns one connection. It runs as the file's owner where it may become that, so that a file made
for the purpose of being opened by root gains nothing. Acts:

  hold PATH TIMEOUT_S TTL_S   checkpoint a WAL, then keep a read transaction open until the input
                              ends or the time is up; says `holds WHAT` first
  check PATH quick|full       PRAGMA quick_check or integrity_check; says what it finds, line by
                              line, and `checked` last

Exit code 1 with one line when SQLite refuses. Imports nothing of ours.
"""

from __future__ import annotations

import os
import select
import sqlite3
import stat
import sys
from urllib.parse import quote

MAX_PROBLEMS = 20


def main() -> int:
    """Do one act."""
    act, path, *rest = sys.argv[1:]
    try:
        _become_owner(path)
        if act == "hold":
            _hold(path, float(rest[0]), float(rest[1]))
        else:
            _check(path, rest[0])
    except (OSError, sqlite3.Error) as exc:
        print(str(exc).replace("\n", " "), flush=True)  # noqa: T201 - this is its answer
        return 1
    return 0


def _become_owner(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a file")
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    try:
        os.setgroups([])
        os.setgid(found.st_gid)
        os.setuid(found.st_uid)
    except PermissionError:
        # The service's sandbox doesn't let root become anybody. SQLite as root gives the files
        # that it makes beside the database to the database's owner.
        return


def _connect(path: str, mode: str, timeout_s: float = 0.0) -> sqlite3.Connection:
    uri = f"file:{quote(path)}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _hold(path: str, timeout_s: float, ttl_s: float) -> None:
    connection = _connect(path, "rw", timeout_s)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        # PASSIVE makes no writer wait; what it leaves stands in the WAL, which is in the image.
        _, logged, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # Keeps the log from being begun anew beneath the freeze; writers only append to it.
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        _say(f"holds checkpoint of {done} of {logged} pages, read lock")
    else:
        _say("holds nothing: with a rollback journal each instant is whole")
    select.select([0], [], [], ttl_s)
    connection.close()


def _check(path: str, depth: str) -> None:
    # A hot journal can only be rolled back by a connection that may write.
    connection = _connect(path, "rw", 10.0)
    connection.execute("PRAGMA cell_size_check = ON")
    pragma = "quick_check" if depth == "quick" else "integrity_check"
    for (line,) in connection.execute(f"PRAGMA {pragma}({MAX_PROBLEMS})"):
        if line != "ok":
            _say(str(line).replace("\n", " "))
    connection.close()
    _say("checked")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is its answer


if __name__ == "__main__":
    sys.exit(main())
