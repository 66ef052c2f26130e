"""A plain file as a logical unit, for the stand-alone server: conformance tests, benchmarks.

Owns one descriptor. Must not block the event loop on cold reads, discards or flushes: those
run in a small executor. Fails by `LunError`; a failed flush fails the unit for good, because
the kernel forgets what it could not write.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from targets.lun import Access, Done, LunError, LunFault, LunIdentity, NoLosses

_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def identity_of(path: str) -> LunIdentity:
    """A stable identity from the file's absolute path (NAA 6, locally chosen)."""
    hashed = hashlib.sha256(str(path).encode()).digest()
    return LunIdentity(
        naa=bytes((0x60 | hashed[0] & 0x0F,)) + hashed[1:16], serial=hashed.hex()[:16]
    )


class FileLun:
    """A `LogicalUnit` over one file."""

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self._fd = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        self._size_bytes = os.fstat(self._fd).st_size & ~4095
        self._identity = identity_of(os.path.realpath(path))
        self._access = Access.READ_ONLY if read_only else Access.READ_WRITE
        self.losses = NoLosses()
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="filelun")
        self._loop = asyncio.get_running_loop()

    @property
    def identity(self) -> LunIdentity:
        """Names derived from the path."""
        return self._identity

    @property
    def size_bytes(self) -> int:
        """The file's size when it was looked at last, in whole physical blocks."""
        return self._size_bytes

    def look_again(self) -> None:
        """Take over the size of a file that has grown."""
        self._size_bytes = max(self._size_bytes, os.fstat(self._fd).st_size & ~4095)

    @property
    def access(self) -> Access:
        """As opened, or not ready after a failed flush."""
        return self._access

    def read(self, offset_bytes: int, into: memoryview, done: Done) -> None:
        """At once when the page cache has it, else in the executor."""
        try:
            if os.preadv(self._fd, (into,), offset_bytes, os.RWF_NOWAIT) == len(into):
                done(None)
                return
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EOPNOTSUPP}:
                done(LunError(LunFault.READ_ERROR, str(error)))
                return
        self._later(lambda: self._read_all(offset_bytes, into), LunFault.READ_ERROR, done)

    def _read_all(self, offset_bytes: int, into: memoryview) -> None:
        got = 0
        while got < len(into):
            count = os.preadv(self._fd, (into[got:],), offset_bytes + got)
            if count == 0:
                raise OSError(errno.EIO, "file is shorter than it was")
            got += count

    def write(self, offset_bytes: int, data: memoryview, fua: bool, done: Done) -> None:
        """Into the page cache; with `fua` also to the disk."""
        try:
            put = 0
            while put < len(data):
                put += os.pwrite(self._fd, data[put:] if put else data, offset_bytes + put)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            done(LunError(LunFault.NO_SPACE if full else LunFault.WRITE_ERROR, str(error)))
            return
        if fua:
            self.flush(done)
        else:
            done(None)

    def discard(self, offset_bytes: int, length_bytes: int, done: Done) -> None:
        """Punch a hole."""
        self._later(lambda: self._punch(offset_bytes, length_bytes), LunFault.WRITE_ERROR, done)

    def _punch(self, offset_bytes: int, length_bytes: int) -> None:
        if _libc.fallocate(self._fd, _KEEP_SIZE_PUNCH_HOLE, offset_bytes, length_bytes):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def flush(self, done: Done) -> None:
        """fdatasync."""

        def ended(error: LunError | None) -> None:
            if error is not None:
                self._access = Access.NOT_READY
            done(error)

        self._later(lambda: os.fdatasync(self._fd), LunFault.WRITE_ERROR, ended)

    def _later(self, work: Callable[[], None], fault: LunFault, done: Done) -> None:
        def run() -> None:
            failure: LunError | None = None
            try:
                work()
            except OSError as error:
                failure = LunError(fault, str(error))
            self._loop.call_soon_threadsafe(done, failure)

        self._executor.submit(run)

    def close(self) -> None:
        """Wait for what runs, and close the file."""
        self._executor.shutdown()
        os.close(self._fd)
