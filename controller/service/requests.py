"""The request journal: which durable requests were begun, and how they were answered.

Owns one append-only file, `requests.log`: a header line, then one line a record, each led by
the CRC-32C of its JSON in eight hex digits. Must not run requests. An id is on disk (fsync, in
an executor thread) before its request is carried out; the answer is recorded afterwards.

A redelivered id gets the recorded answer. An id that was begun and has no answer belongs to a
crash, and its request is carried out again: commands are idempotent by the state tables, so
what had been done already becomes a no-op, and what had not is done. (Answers are not fsynced
for the same reason: losing one is that same case.)

A torn or damaged end of the file is cut off. After a failed write or fsync every further durable
request is rejected, because nothing can be promised about it (law L10).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import crc32c
import structlog
from pydantic import ValidationError

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import Reply

MAX_IDS = 1024
MAX_REPLY_BYTES = 64 << 10
MAX_LINE_BYTES = MAX_REPLY_BYTES + 4096
_HEADER = {"magic": "trilun-requests", "version": 1}

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class JournalError(Exception):
    """The file is not a request journal of a version we know."""


class RequestJournal:
    """The last `max_ids` durable requests. Open it with `RequestJournal.open`."""

    def __init__(self, path: Path, max_ids: int) -> None:
        self._path = path
        self._max_ids = max_ids
        self._replies: OrderedDict[str, Reply | None] = OrderedDict()
        self._fd = -1
        self._lines = 0
        self._lock = asyncio.Lock()
        self._failed = ""

    @classmethod
    async def open(cls, path: Path, max_ids: int = MAX_IDS) -> RequestJournal:
        """Read (or make) the journal; raises JournalError or OSError."""
        assert max_ids > 0
        journal = cls(path, max_ids)
        await asyncio.get_running_loop().run_in_executor(None, journal._load)
        return journal

    async def begin(self, request_id: str) -> Reply | None:
        """The recorded answer of an id, or None once the id is durably remembered.

        Raises RejectedError (io_error) when it can't be remembered.
        """
        async with self._lock:
            known = self._replies.get(request_id)
            if known is not None or request_id in self._replies:
                return known
            await self._write({"op": "begin", "id": request_id}, durable=True)
            self._replies[request_id] = None
            while len(self._replies) > self._max_ids:
                self._replies.popitem(last=False)
        return None

    async def finish(self, request_id: str, reply: Reply) -> None:
        """Record the answer. A result beyond 64 KiB is left out of what is recorded."""
        if len(reply.model_dump_json()) > MAX_REPLY_BYTES:
            reply = reply.model_copy(update={"result": None})
        async with self._lock:
            if request_id not in self._replies:
                return
            self._replies[request_id] = reply
            record = {"op": "done", "id": request_id, "reply": reply.model_dump(mode="json")}
            await self._write(record, durable=False)
            if self._lines > 4 * self._max_ids:
                await self._guarded(self._compact)

    async def close(self) -> None:
        """Close the file; the journal can't be used afterwards."""
        async with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    async def _write(self, record: dict[str, Any], *, durable: bool) -> None:
        await self._guarded(self._append, _line(record), durable)

    async def _guarded(self, work: Any, *args: Any) -> None:
        if self._failed:
            raise _not_remembered(self._failed)
        try:
            await asyncio.get_running_loop().run_in_executor(None, work, *args)
        except OSError as exc:
            self._failed = exc.strerror or str(exc)
            _log.error("request journal failed", path=str(self._path), error=self._failed)
            raise _not_remembered(self._failed) from exc

    def _append(self, line: bytes, durable: bool) -> None:
        assert self._fd >= 0, "the journal is closed"
        assert len(line) <= MAX_LINE_BYTES
        _write_all(self._fd, line)
        self._lines += 1
        if durable:
            os.fdatasync(self._fd)

    def _load(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        good_bytes = 0
        if self._path.exists():
            good_bytes = self._replay()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if good_bytes == 0:
            # A header is only ever renamed into place: a file without one isn't ours.
            if os.fstat(self._fd).st_size:
                os.close(self._fd)
                self._fd = -1
                raise JournalError(f"{self._path}: not a request journal of version 1")
            self._compact()
            return
        os.ftruncate(self._fd, good_bytes)
        os.lseek(self._fd, 0, os.SEEK_END)

    def _replay(self) -> int:
        good_bytes = 0
        with self._path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                record = _record(line)
                if record is None:
                    _log.warning(
                        "request journal cut at a damaged line",
                        path=str(self._path),
                        offset_bytes=good_bytes,
                    )
                    break
                if good_bytes == 0:
                    if record != _HEADER:
                        raise JournalError(f"{self._path}: not a request journal of version 1")
                else:
                    self._apply(record)
                    self._lines += 1
                good_bytes += len(line)
        return good_bytes

    def _apply(self, record: dict[str, Any]) -> None:
        request_id = record.get("id")
        if not isinstance(request_id, str):
            raise JournalError(f"{self._path}: a record without an id")
        if record.get("op") == "begin":
            self._replies[request_id] = None
        elif request_id in self._replies:
            try:
                self._replies[request_id] = Reply.model_validate(record.get("reply"))
            except ValidationError as exc:
                raise JournalError(f"{self._path}: the answer of {request_id} is odd") from exc
        while len(self._replies) > self._max_ids:
            self._replies.popitem(last=False)

    def _compact(self) -> None:
        """Write what is remembered to a new file and rename it over the old one."""
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, _line(_HEADER))
            lines = 0
            for request_id, reply in self._replies.items():
                _write_all(fd, _line({"op": "begin", "id": request_id}))
                lines += 1
                if reply is not None:
                    record = {
                        "op": "done",
                        "id": request_id,
                        "reply": reply.model_dump(mode="json"),
                    }
                    _write_all(fd, _line(record))
                    lines += 1
            os.fsync(fd)
            fresh.rename(self._path)
            _sync_directory(self._path.parent)
        except OSError:
            os.close(fd)
            raise
        old, self._fd, self._lines = self._fd, fd, lines
        if old >= 0:
            os.close(old)


def _not_remembered(why: str) -> RejectedError:
    return RejectedError(
        Code.IO_ERROR,
        f"the request can't be remembered durably: {why}",
        "look at the node's state directory, then restart the node",
    )


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %s\n" % (crc32c.crc32c(body), body)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of one line, or None when it is torn or damaged."""
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    body = line[9:-1]
    if line[:8] != b"%08x" % crc32c.crc32c(body):
        return None
    try:
        record = json.loads(body)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
