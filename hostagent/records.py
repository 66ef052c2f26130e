"""Durable records: one small JSON file each, whole or absent, never half.

Owns the file format (magic, version, CRC-32C of the body, a size limit checked by writer and
reader) and the order of a save: temporary file, fsync, rename, fsync of the directory. Must not
know what a record means. Fails with `RecordError` for a file that isn't ours or is damaged, and
with OSError when the disk refuses. All calls block: they belong in a thread.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import crc32c

from controller.api.topics import check_name

MAX_RECORD_BYTES = 64 << 20
MAGIC = "trilun-record"
VERSION = 1
_SUFFIX = ".json"


class RecordError(Exception):
    """A record's file is damaged, too large, or of a version we don't know."""


class RecordStore:
    """The records of one kind, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def directory(self) -> Path:
        """Where they are."""
        return self._directory

    def save(self, name: str, body: dict[str, Any]) -> None:
        """Replace a record; when this returns, it survives a crash."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = _canonical(body)
        head = {"magic": MAGIC, "version": VERSION, "crc32c": f"{crc32c.crc32c(text):08x}"}
        data = json.dumps(head).encode() + b"\n" + text + b"\n"
        if len(data) > MAX_RECORD_BYTES:
            raise RecordError(f"record '{name}' would be larger than {MAX_RECORD_BYTES} bytes")
        path = self._path(name)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.replace(path)
        self._sync_directory()

    def load(self, name: str) -> dict[str, Any] | None:
        """A record's body, or None when there is none. Raises RecordError."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_RECORD_BYTES + 1)
        except FileNotFoundError:
            return None
        return _parse(path, data)

    def names(self) -> list[str]:
        """The records there are, sorted."""
        if not self._directory.is_dir():
            return []
        return sorted(path.stem for path in self._directory.glob(f"*{_SUFFIX}"))

    def delete(self, name: str) -> None:
        """Forget a record; no error when there is none."""
        self._path(name).unlink(missing_ok=True)
        if self._directory.is_dir():
            self._sync_directory()

    def _path(self, name: str) -> Path:
        return self._directory / f"{check_name(name)}{_SUFFIX}"

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    if len(data) > MAX_RECORD_BYTES:
        raise RecordError(f"{path}: larger than {MAX_RECORD_BYTES} bytes")
    head_line, _, text = data.partition(b"\n")
    text = text.removesuffix(b"\n")
    try:
        head = json.loads(head_line)
        body = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RecordError(f"{path}: not a record") from exc
    if not isinstance(head, dict) or not isinstance(body, dict) or head.get("magic") != MAGIC:
        raise RecordError(f"{path}: not a record")
    if head.get("version") != VERSION:
        raise RecordError(f"{path}: version {head.get('version')} is not known")
    if head.get("crc32c") != f"{crc32c.crc32c(text):08x}":
        raise RecordError(f"{path}: the checksum does not match")
    return body
