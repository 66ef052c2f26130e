"""A user of a file system who relies on fsync, and remembers what was promised.

Owns files in one directory, and which contents each may have after a crash. A name's promise
changes when fsync of the file and of its directory has returned, and widens before each step.
Threads: one that works, any that asks for `promises`. Must not know what is beneath.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 4096
SIZES = (1, 300, 4096, 9000, 40_000, 130_000)
MAX_FILES = 40
NOISE_BYTES = 1 << 20
Contents = frozenset[int | None]
"""Serial numbers of contents; None: there is no such file."""


@dataclass(frozen=True, slots=True)
class Promises:
    """What a crash at this moment has to leave."""

    files: dict[str, Contents]
    moving: tuple[str, str] | None
    """A rename is under way: one of both names is there."""
    log_bytes: int
    """The first bytes of the log that were fsynced."""
    log_written_bytes: int
    synced: int
    """How many fsyncs had returned."""


def content_of(serial: int) -> bytes:
    """The bytes of one content."""
    chance = random.Random(serial)
    return chance.randbytes(chance.choice(SIZES) + chance.randrange(50))


def log_part(start: int, length_bytes: int) -> bytes:
    """Bytes of the endless log."""
    first = start // 8
    words = (index.to_bytes(8, "big") for index in range(first, (start + length_bytes) // 8 + 1))
    return b"".join(words)[start - first * 8 :][:length_bytes]


class Workload:
    """Works in `directory` until it is told to stop."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._files: dict[str, Contents] = {}
        self._moving: tuple[str, str] | None = None
        self._log_bytes = self._log_written_bytes = 0
        self._serial = self._names = self._synced = 0
        self._stopping = False

    def promises(self) -> Promises:
        """What holds now."""
        with self._lock:
            return Promises(
                dict(self._files),
                self._moving,
                self._log_bytes,
                self._log_written_bytes,
                self._synced,
            )

    def stop(self) -> None:
        """Let `run` return after its step."""
        self._stopping = True

    def run(self) -> None:
        """Work; blocks."""
        with self._noise_file() as noise:
            while not self._stopping:
                self._noise(noise)
                self._step()

    def _step(self) -> None:
        roll = self._chance.random()
        present = [name for name, contents in self._files.items() if contents != {None}]
        if not present or (roll < 0.35 and len(present) < MAX_FILES):
            self._names += 1
            self._write(f"file-{self._names}", replace=False)
        elif roll < 0.6:
            self._write(self._chance.choice(present), replace=True)
        elif roll < 0.75:
            self._names += 1
            to = self._chance.choice([f"file-{self._names}", self._chance.choice(present)])
            self._rename(self._chance.choice(present), to)
        elif roll < 0.85:
            self._append()
        else:
            self._remove(self._chance.choice(present))

    def _write(self, name: str, *, replace: bool) -> None:
        self._serial += 1
        serial = self._serial
        path = self._directory / (f"{name}.new" if replace else name)
        if not replace:
            # Until its fsync has returned a new file may be anything: it has another promise.
            with self._lock:
                self._files.pop(name, None)
        with path.open("wb") as file:
            file.write(content_of(serial))
            file.flush()
            os.fsync(file.fileno())
        self._may_be(name, serial)
        if replace:
            path.rename(self._directory / name)
        self._sync_directory()
        self._is({name: serial})

    def _rename(self, name: str, to: str) -> None:
        if name == to:
            return
        (serial,) = self._files[name]
        with self._lock:
            self._moving = (name, to)
        self._may_be(name, None)
        self._may_be(to, serial)
        (self._directory / name).rename(self._directory / to)
        self._sync_directory()
        self._is({name: None, to: serial})

    def _remove(self, name: str) -> None:
        self._may_be(name, None)
        (self._directory / name).unlink()
        self._sync_directory()
        self._is({name: None})

    def _append(self) -> None:
        length_bytes = self._chance.choice(SIZES)
        with self._lock:
            self._log_written_bytes += length_bytes
        with (self._directory / "log").open("ab") as file:
            file.write(log_part(self._log_bytes, length_bytes))
            file.flush()
            os.fsync(file.fileno())
        self._sync_directory()
        with self._lock:
            self._log_bytes = self._log_written_bytes
            self._synced += 1

    def _may_be(self, name: str, serial: int | None) -> None:
        with self._lock:
            known: Contents = self._files.get(name, frozenset({None}))
            self._files[name] = known | {serial}

    def _is(self, contents: dict[str, int | None]) -> None:
        with self._lock:
            self._files |= {name: frozenset({serial}) for name, serial in contents.items()}
            self._moving = None
            self._synced += 1

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # ------------------------------------------------------------ what nobody waits for

    @contextlib.contextmanager
    def _noise_file(self) -> Iterator[int]:
        fd = os.open(self._directory / "noise", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        try:
            os.posix_fallocate(fd, 0, NOISE_BYTES)
            yield fd
        finally:
            os.close(fd)

    def _noise(self, fd: int) -> None:
        """Direct writes without a flush, and files that nobody fsyncs."""
        with mmap.mmap(-1, 2 * BLOCK_BYTES) as aligned:
            aligned.write(self._chance.randbytes(2 * BLOCK_BYTES))
            for _ in range(self._chance.randrange(4)):
                offset_bytes = self._chance.randrange(0, NOISE_BYTES, 2 * BLOCK_BYTES)
                os.pwrite(fd, aligned, offset_bytes)
        loose = self._directory / f"loose-{self._chance.randrange(20)}"
        loose.write_bytes(self._chance.randbytes(self._chance.choice(SIZES)))


def check_promises(directory: Path, promises: Promises) -> None:
    """Look at a file system that was mounted after a crash; AssertionError names the file."""
    for name, contents in promises.files.items():
        path = directory / name
        found = path.read_bytes() if path.exists() else None
        allowed = [None if serial is None else content_of(serial) for serial in contents]
        shown = "is missing" if found is None else f"has {len(found)} bytes"
        assert found in allowed, f"{name} {shown}, which is none of {contents}"
    if promises.moving is not None:
        assert any((directory / name).exists() for name in promises.moving), promises.moving
    log = directory / "log"
    found = log.read_bytes() if log.exists() else b""
    assert promises.log_bytes <= len(found) <= promises.log_written_bytes, (
        f"the log has {len(found)} bytes, {promises.log_bytes} were fsynced"
    )
    assert found == log_part(0, len(found)), "the log's content is wrong"
