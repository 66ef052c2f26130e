"""A block store in a sparse file, and the directory that holds such files.

Owns the file descriptors. Reads that the page cache can't answer, every fsync, and what shares
extents run in a worker thread; all else is done at once. Fails with StoreError; a failed fsync is
reported once and never tried again (the kernel has dropped the dirty pages, so a second one would
lie).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap, block_range
from controller.volume.store import BlockStore, StoreDone, StoreError, StoreFault

FALLOC_FL_KEEP_SIZE = 0x01  # linux/falloc.h
FALLOC_FL_PUNCH_HOLE = 0x02
FICLONERANGE = 0x4020940D  # linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
CLONE_RANGE = struct.Struct("=qQQQ")
"""Source's descriptor, source's offset, length, offset here."""
ZERO_STEP_BYTES = 1 << 20

Offload = Callable[[Callable[[], None], Callable[[BaseException | None], None]], None]
"""Run the first callable in a worker thread, then the second on the loop with what it raised."""
NewLane = Callable[[], Offload]
"""Gives each store an `Offload` of its own, so that one which hangs holds up no other."""

_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _store_error(error: OSError, what: str) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(StoreFault.NO_SPACE if full else StoreFault.IO, f"{what}: {error.strerror}")


def punch_hole(fd: int, offset_bytes: int, length_bytes: int) -> None:
    """Deallocate a range of a file (fallocate(2)); OSError when the file system can't."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if _libc.fallocate(fd, mode, offset_bytes, length_bytes) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _is_held(held: DirtyBitmap, offset_bytes: int, length_bytes: int) -> bool:
    first, count = block_range(offset_bytes, length_bytes)
    whole = (offset_bytes | length_bytes) % BLOCK_BYTES == 0
    return whole and held.count_in(first, count) == count


def _clone(fd: int, place: bytes) -> None:
    fcntl.ioctl(fd, FICLONERANGE, place)


class FileStore:
    """One sparse file. Not thread-safe: everything is called on the loop."""

    def __init__(self, path: Path, fd: int, size_bytes: int, offload: Offload) -> None:
        self._path = path
        self._fd = fd
        self._size_bytes = size_bytes
        self._offload = offload
        self._in_threads = 0
        self._closing = False
        self._flushing = False
        self._flush_waiters: list[StoreDone] = []
        self._twin: tuple[FileStore, DirtyBitmap] | None = None

    @property
    def size_bytes(self) -> int:
        """Capacity."""
        return self._size_bytes

    @property
    def writes_at_once(self) -> bool:
        """A buffered pwrite is done when it returns; what is shared is done by a thread."""
        return self._twin is None

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        """Fill `into` from the page cache at once, else in a worker thread."""
        if self._closing:
            done(self._closed_error())
            return
        try:
            got = os.preadv(self._fd, [into], offset_bytes, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                done(_store_error(error, f"read of {self._path}"))
                return
            got = 0
        if got == len(into):
            done(None)
            return

        def blocking() -> None:
            filled = got
            while filled < len(into):
                n = os.preadv(self._fd, [into[filled:]], offset_bytes + filled)
                if n == 0:
                    raise OSError(errno.EIO, f"the file ends at {offset_bytes + filled}")
                filled += n

        self._in_thread(blocking, "read", done)

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        """Write through the page cache, now, what isn't shared."""
        twin = self._twin
        if twin is not None and _is_held(twin[1], offset_bytes, len(data)):
            self._share(twin, offset_bytes, data, done)
        else:
            self._put(offset_bytes, data, done)

    def _put(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        if self._closing:
            done(self._closed_error())
            return
        try:
            written = os.pwrite(self._fd, data, offset_bytes)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], offset_bytes + written)
        except OSError as error:
            done(_store_error(error, f"write to {self._path}"))
            return
        done(None)

    def share_with(self, source: BlockStore | None, held: DirtyBitmap | None) -> None:
        """Take over extents of another file of the same file system (ioctl_ficlonerange(2))."""
        self._twin = None
        if isinstance(source, FileStore) and held is not None:
            self._twin = (source, held)

    def _share(
        self,
        twin: tuple[FileStore, DirtyBitmap],
        offset_bytes: int,
        data: memoryview,
        done: StoreDone,
    ) -> None:
        """Share a range, in a thread: the ioctl waits for writeback and for the journal.

        The write isn't done before, so that a flush comes behind it, and what it holds stays held.
        """
        source = twin[0]
        place = source.lend(offset_bytes, len(data))
        if place is None:
            self._put(offset_bytes, data, done)
            return

        def ended(error: StoreError | None) -> None:
            source.give_back()
            if error is None:
                done(None)
                return
            # Another file system, or one that shares nothing; whatever else it is, writing will
            # meet it, too.
            if self._twin is twin:
                self._twin = None
            self._put(offset_bytes, data, done)

        self._in_thread(lambda: _clone(self._fd, place), "clone", ended)

    def lend(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """A range of this file for FICLONERANGE, to the same place of another; None when closed.

        Until `give_back` the descriptor stays what it is: its number, used again, would be
        another file.
        """
        if self._closing:
            return None
        self._in_threads += 1
        return CLONE_RANGE.pack(self._fd, offset_bytes, length_bytes, offset_bytes)

    def give_back(self) -> None:
        """Some thread uses the descriptor no more."""
        self._in_threads -= 1
        if self._closing and self._in_threads == 0:
            os.close(self._fd)

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        """Punch a hole, now."""
        if self._closing:
            done(self._closed_error())
            return
        try:
            punch_hole(self._fd, offset_bytes, length_bytes)
        except OSError as error:
            done(_store_error(error, f"discard on {self._path}"))
            return
        done(None)

    def flush(self, done: StoreDone) -> None:
        """Fdatasync in a worker thread; calls that arrive meanwhile share the next one."""
        self._flush_waiters.append(done)
        if not self._flushing:
            self._start_flush()

    def _start_flush(self) -> None:
        waiters, self._flush_waiters = self._flush_waiters, []
        self._flushing = True

        def ended(error: StoreError | None) -> None:
            self._flushing = False
            for waiter in waiters:
                waiter(error)
            if self._flush_waiters and not self._flushing:
                self._start_flush()

        self._in_thread(lambda: os.fdatasync(self._fd), "fsync", ended)

    def _closed_error(self) -> StoreError:
        return StoreError(StoreFault.CLOSED, f"{self._path} is closed")

    def _in_thread(self, work: Callable[[], None], what: str, done: StoreDone) -> None:
        if self._closing:
            done(self._closed_error())
            return
        self._in_threads += 1

        def ended(error: BaseException | None) -> None:
            self.give_back()
            if error is None:
                done(None)
            elif isinstance(error, OSError):
                done(_store_error(error, f"{what} of {self._path}"))
            else:
                raise error

        self._offload(work, ended)

    def next_data(self, offset_bytes: int) -> int | None:
        """SEEK_DATA of lseek(2)."""
        try:
            return os.lseek(self._fd, offset_bytes, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            return offset_bytes

    def next_hole(self, offset_bytes: int) -> int:
        """SEEK_HOLE of lseek(2)."""
        try:
            return os.lseek(self._fd, offset_bytes, os.SEEK_HOLE)
        except OSError:
            return self._size_bytes

    def allocated_bytes(self) -> int:
        """Blocks the file system has given the file."""
        return os.fstat(self._fd).st_blocks * 512

    def lengthen(self, size_bytes: int) -> None:
        """ftruncate(2): the new part takes no space."""
        assert size_bytes >= self._size_bytes
        if self._closing:
            raise self._closed_error()
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            raise _store_error(error, f"growth of {self._path}") from error
        self._size_bytes = size_bytes

    def close(self) -> None:
        """Close the file once its threads have ended."""
        if not self._closing:
            self._closing = True
            if self._in_threads == 0:
                os.close(self._fd)


class DirectoryDisk:
    """Stores as files of one directory."""

    def __init__(self, directory: Path, new_lane: NewLane) -> None:
        self._directory = directory
        self._new_lane = new_lane
        directory.mkdir(parents=True, exist_ok=True)

    def open(
        self,
        name: str,
        size_bytes: int,
        *,
        create: bool,
        reserve: bool = False,
        longer: bool = False,
    ) -> BlockStore:
        """Open or create (durably: file size and directory entry are synced) a store."""
        path = self._directory / name
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise _store_error(error, f"open of {path}") from error
        try:
            if create:
                self._lay_out(fd, size_bytes, reserve=reserve)
            found_bytes = os.fstat(fd).st_size
            if longer and found_bytes > size_bytes and _is_zero(fd, size_bytes):
                os.ftruncate(fd, size_bytes)
                found_bytes = size_bytes
        except OSError as error:
            os.close(fd)
            if create:
                path.unlink(missing_ok=True)
            raise _store_error(error, f"open of {path}") from error
        if found_bytes != size_bytes:
            os.close(fd)
            detail = f"{path} has {found_bytes} bytes, expected {size_bytes}"
            raise StoreError(StoreFault.WRONG_SIZE, detail)
        return FileStore(path, fd, size_bytes, self._new_lane())

    def _lay_out(self, fd: int, size_bytes: int, *, reserve: bool) -> None:
        os.ftruncate(fd, size_bytes)
        if reserve:
            os.posix_fallocate(fd, 0, size_bytes)
        os.fsync(fd)
        self._sync_directory()

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return (self._directory / name).exists()

    def remove(self, name: str) -> None:
        """Unlink the file and sync the directory."""
        try:
            (self._directory / name).unlink(missing_ok=True)
            self._sync_directory()
        except OSError as error:
            raise _store_error(error, f"removal of {self._directory / name}") from error

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _is_zero(fd: int, offset_bytes: int) -> bool:
    """Whether a file has nothing but zeros from here to its end."""
    while True:
        try:
            offset_bytes = os.lseek(fd, offset_bytes, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True
            raise
        found = os.pread(fd, ZERO_STEP_BYTES, offset_bytes)
        if not found:
            return True
        if found.count(0) != len(found):
            return False
        offset_bytes += len(found)
