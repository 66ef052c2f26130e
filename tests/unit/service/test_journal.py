"""Logging to the journal: entries as they arrive at a real datagram socket."""

from __future__ import annotations

import errno
import io
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from controller.service import journal, logs
from controller.service.journal import (
    MAX_FIELDS,
    MAX_VALUE_BYTES,
    JournalHandler,
    encode,
    stderr_is_journal,
)

pytestmark = pytest.mark.plain


def parse(entry: bytes) -> dict[str, str]:
    """An entry's fields, as journald reads them."""
    fields = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name = line
            (size,) = struct.unpack_from("<Q", rest)
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
        entry = rest
    return fields


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What stands in journald's place, with the program's logging going there."""
    path = tmp_path / "socket"
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(5)

        class Here(JournalHandler):
            def __init__(self, program: str, always: dict[str, str], stderr: io.StringIO) -> None:
                super().__init__(program, always, path, stderr)

        monkeypatch.setattr(logs, "JournalHandler", Here)
        logs.set_up_logging("info", "journal", io.StringIO(), program="trilund", node="ctl1")
        (handler,) = root.handlers
        yield receiver
    handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_every_key_is_a_field(journald: socket.socket) -> None:
    structlog.get_logger("ours").warning(
        "pair is suspended", pair="demo", volume="first", job="restore-1", reason="link\nlost"
    )
    assert parse(journald.recv(1 << 16)) == {
        "MESSAGE": "pair is suspended pair=demo volume=first job=restore-1 reason='link\\nlost'",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "trilund",
        "LOGGER": "ours",
        "TRILUN_NODE": "ctl1",
        "TRILUN_PAIR": "demo",
        "TRILUN_VOLUME": "first",
        "TRILUN_JOB": "restore-1",
        "TRILUN_REASON": "link\nlost",
    }


def test_other_libraries_lines_arrive_too(journald: socket.socket) -> None:
    logging.getLogger("theirs").error("odd %s", "thing")
    fields = parse(journald.recv(1 << 16))
    assert (fields["MESSAGE"], fields["PRIORITY"], fields["LOGGER"]) == ("odd thing", "3", "theirs")
    assert fields["TRILUN_NODE"] == "ctl1"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("pair %s: up", "TRILUN_PAIR"),
        ("volume %s is not closed cleanly", "TRILUN_VOLUME"),
        ("link to %s: up", "TRILUN_PEER"),
    ],
)
def test_what_a_line_begins_with_is_a_field(journald: socket.socket, line: str, field: str) -> None:
    logging.getLogger("theirs").info(line, "x")
    fields = parse(journald.recv(1 << 16))
    assert (fields["MESSAGE"], fields[field]) == (line % "x", "x")
    logging.getLogger("theirs").info("a " + line, "x")
    assert field not in parse(journald.recv(1 << 16))


def test_an_exception_is_one_entry(journald: socket.socket) -> None:
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        try:
            int("planted")
        except ValueError:
            logger.exception("failed")
        fields = parse(journald.recv(1 << 16))
        first, _, rest = fields["MESSAGE"].partition("\n")
        assert first == "failed"
        assert "ValueError: invalid literal" in rest
        assert fields["PRIORITY"] == "3"


def test_an_entry_is_bounded(journald: socket.socket) -> None:
    keys = {f"k{number}": "x" * 100_000 for number in range(100)}
    structlog.get_logger("ours").info("much", **keys)
    entry = journald.recv(1 << 20)
    assert len(entry) <= (MAX_FIELDS + 1) * (MAX_VALUE_BYTES + 100)
    assert len(parse(entry)) == MAX_FIELDS


def test_a_full_journal_costs_lines_and_is_told(journald: socket.socket) -> None:
    log = structlog.get_logger("ours")
    for number in range(2000):
        log.info("line", number=number)
    journald.setblocking(False)
    arrived = 0
    with pytest.raises(OSError) as caught:  # noqa: PT012 - it ends when all were read
        while True:
            journald.recv(1 << 16)
            arrived += 1
    assert caught.value.errno == errno.EAGAIN
    assert 0 < arrived < 2000
    log.info("again")
    assert parse(journald.recv(1 << 16))["MESSAGE"] == f"{2000 - arrived} lines were lost"
    assert parse(journald.recv(1 << 16))["MESSAGE"] == "again"


def test_without_a_journal_lines_go_to_stderr(tmp_path: Path) -> None:
    out = io.StringIO()
    handler = JournalHandler("trilund", {}, tmp_path / "nobody", out)
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "a line", (), None))
    handler.close()
    assert out.getvalue() == "a line\n"


@given(st.dictionaries(st.from_regex("[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()))
def test_entries_read_back(fields: dict[str, str]) -> None:
    short = {
        name: value
        for name, value in fields.items()
        if len(value.encode("utf-8", "backslashreplace")) <= MAX_VALUE_BYTES
    }
    shown = {
        name: text.encode("utf-8", "backslashreplace").decode() for name, text in short.items()
    }
    assert parse(encode(short)) == shown


def test_whether_stderr_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as file:
        status = os.fstat(file.fileno())
        ours = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert stderr_is_journal(ours, file.fileno())
        assert not stderr_is_journal({"JOURNAL_STREAM": f"{status.st_dev}:1"}, file.fileno())
        assert not stderr_is_journal({}, file.fileno())


def test_auto_is_the_console_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.set_up_logging("info", "auto")
        assert not isinstance(root.handlers[0], journal.JournalHandler)
        monkeypatch.setattr(logs, "stderr_is_journal", lambda environ: True)
        logs.set_up_logging("info", "auto")
        (handler,) = root.handlers
        assert isinstance(handler, journal.JournalHandler)
        handler.close()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
