"""Logging to systemd's journal by its native protocol: every key of a log line is a field.

Owns the datagrams ("Native Journal Protocol", systemd.io/JOURNAL_NATIVE_PROTOCOL) and the names
of the fields. Must not block: the loop that logs also serves hosts, so what a full journal
doesn't take is counted, and the count is told with the next line that goes through. Where there
is no journal, lines go to stderr.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import structlog

SOCKET = Path("/run/systemd/journal/socket")
MAX_VALUE_BYTES = 8192
MAX_FIELDS = 32
"""Of one line; with `MAX_VALUE_BYTES` it bounds a datagram, so that no memfd is needed."""
MAX_NAME = 64
SEND_BUFFER_BYTES = 8 << 20

_LENGTH = struct.Struct("<Q")
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_NO_FIELDS = frozenset({"event", "level", "timestamp", "logger", "exception", "stack"})
_SUBJECT = re.compile(r"(pair|volume|peer|target|link to) %s\b")
"""What a line of the standard library's loggers is about, when it begins with that."""
_KEY_OF_SUBJECT = {"link to": "peer"}
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})


def stderr_is_journal(environ: Mapping[str, str], fd: int = 2) -> bool:
    """Whether the service manager connected `fd` to the journal (systemd.exec(5), JOURNAL_STREAM).

    A program that was given another stderr since inherits the variable, and is told no.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record as one journal entry.

    `identifier` is what journalctl shows in front of a line; `always` are fields of every line,
    by our key: `{"node": "ctl1"}` becomes TRILUN_NODE=ctl1.
    """

    def __init__(
        self,
        identifier: str,
        always: Mapping[str, str],
        path: Path = SOCKET,
        stderr: TextIO | None = None,
    ) -> None:
        super().__init__()
        self._identifier = identifier
        self._always = dict(always)
        self._path = str(path)
        self._stderr = sys.stderr if stderr is None else stderr
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; never raises, never waits."""
        try:
            event = _event(record)
            if self._lost and self._send("warning", f"{self._lost} lines were lost", {}):
                self._lost = 0
            keys = event if isinstance(record.msg, dict) else {}
            if not self._send(str(event["level"]), _message(event, keys), event):
                self._lost += 1
        except Exception:  # noqa: BLE001
            # As logging's own handlers: a line that can't be logged must not fail what it tells of.
            self.handleError(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        super().close()

    def _send(self, level: str, message: str, event: Mapping[str, Any]) -> bool:
        fields: dict[str, str] = {
            "MESSAGE": message,
            "PRIORITY": str(_PRIORITY.get(level, 6)),
            "SYSLOG_IDENTIFIER": self._identifier,
        }
        if "logger" in event:
            fields["LOGGER"] = str(event["logger"])
        for key, value in {**event, **self._always}.items():
            if key not in _NO_FIELDS and len(fields) < MAX_FIELDS:
                fields[_name(key)] = _shown(value)
        try:
            self._socket.sendto(encode(fields), self._path)
        except OSError as exc:
            if exc.errno in _FULL:
                return False
            self._stderr.write(f"{message}\n")
        return True


def encode(fields: Mapping[str, str]) -> bytes:
    """One entry: `NAME=value`, or where a value has several lines its length and its bytes."""
    out = bytearray()
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")[:MAX_VALUE_BYTES]
        if b"\n" in value:
            out += name.encode() + b"\n" + _LENGTH.pack(len(value)) + value + b"\n"
        else:
            out += name.encode() + b"=" + value + b"\n"
    return bytes(out)


def _name(key: str) -> str:
    return ("TRILUN_" + re.sub(r"[^A-Z0-9]", "_", key.upper()))[:MAX_NAME]


def _event(record: logging.LogRecord) -> dict[str, Any]:
    """The keys of a record, of our loggers' or of the standard library's."""
    if isinstance(record.msg, dict):
        event = dict(record.msg)
    else:
        event = {
            **structlog.contextvars.get_contextvars(),
            **_subject(record),
            "event": record.getMessage(),
            "exc_info": record.exc_info,
        }
    event = dict(structlog.processors.format_exc_info(None, "", event))
    return {"logger": record.name, "level": record.levelname.lower(), **event}


def _subject(record: logging.LogRecord) -> dict[str, str]:
    """`log.info("pair %s: up", name)` is about a pair: its name becomes a field as well."""
    found = _SUBJECT.match(str(record.msg))
    if found is None or not isinstance(record.args, tuple) or not record.args:
        return {}
    return {_KEY_OF_SUBJECT.get(found[1], found[1]): str(record.args[0])}


def _message(event: Mapping[str, Any], keys: Mapping[str, Any]) -> str:
    """What journalctl shows: the event with its keys, then the traceback."""
    pairs = [f"{key}={_quoted(value)}" for key, value in keys.items() if key not in _NO_FIELDS]
    lines = [" ".join([str(event.get("event", "")), *pairs])]
    lines += [str(event[key]) for key in ("stack", "exception") if event.get(key)]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _quoted(value: Any) -> str:
    text = _shown(value)
    return repr(text) if isinstance(value, str) and text.split() != [text] else text
