"""The bytes of regular files: copying with holes kept, comparing, digests.

Owns the transfer loop and its bounded buffer. Must not know names or metadata: it works on open
descriptors. Fails with OSError, or `InterruptedWorkError` when its job is cancelled.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from hostagent.errors import InterruptedWorkError

PIECE_BYTES = 1 << 20
ZERO_CHECK_BYTES = 64 << 10
_ZEROS = bytes(PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Work:
    """How work in a thread tells how far it is, and learns that it must stop."""

    progress: Callable[[int], None]
    """Called with the bytes dealt with since the last call."""
    cancelled: Callable[[], bool]

    def did(self, length_bytes: int) -> None:
        """Count bytes as done; raises InterruptedWorkError when cancelled."""
        if self.cancelled():
            raise InterruptedWorkError
        self.progress(length_bytes)


def data_ranges(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The allocated ranges of a file as (start, end); where holes are unknown, the whole file."""
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size_bytes)
        if start >= end:
            return
        yield start, end
        position = end


def copy_content(source_fd: int, target_fd: int, size_bytes: int, sparse: bool, work: Work) -> None:
    """Copy the data into an empty target; holes stay holes.

    `sparse` says that the source has fewer blocks than its size: pieces of zeros are left out
    then, for file systems (in user space) that can't tell where their holes are.
    """
    os.ftruncate(target_fd, size_bytes)
    buffer = memoryview(bytearray(PIECE_BYTES))
    done = 0
    for start, end in data_ranges(source_fd, size_bytes):
        work.did(start - done)
        position = start
        while position < end:
            length = os.preadv(source_fd, [buffer[: min(PIECE_BYTES, end - position)]], position)
            if length == 0:
                raise OSError(errno.EIO, "the source became shorter while it was copied")
            _write(target_fd, buffer[:length], position, sparse)
            position += length
            work.did(length)
        done = end
    work.did(size_bytes - done)


def _write(fd: int, data: memoryview, offset_bytes: int, sparse: bool) -> None:
    step = ZERO_CHECK_BYTES if sparse else len(data)
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        if sparse and piece == _ZEROS[: len(piece)]:
            continue
        position = offset_bytes + start
        while piece:
            written = os.pwrite(fd, piece, position)
            piece, position = piece[written:], position + written


def same_content(first_fd: int, second_fd: int, size_bytes: int, work: Work) -> bool:
    """Whether two files of the same size hold the same bytes. Counts nothing as done."""
    one, two = (memoryview(bytearray(PIECE_BYTES)) for _ in range(2))
    position = 0
    while position < size_bytes:
        work.did(0)
        length = os.preadv(first_fd, [one], position)
        other = os.preadv(second_fd, [two], position)
        if length == 0 or length != other or one[:length] != two[:length]:
            return False
        position += length
    return True


def digest(fd: int, size_bytes: int, work: Work) -> str:
    """SHA-256 of a file's content, in hex; holes count as the zeros they read as."""
    sha = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE_BYTES))
    position = 0
    for start, end in chain(data_ranges(fd, size_bytes), [(size_bytes, size_bytes)]):
        while position < start:
            length = min(PIECE_BYTES, start - position)
            sha.update(_ZEROS[:length])
            position += length
            work.did(length)
        while position < end:
            length = os.preadv(fd, [buffer[: min(PIECE_BYTES, end - position)]], position)
            if length == 0:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            sha.update(buffer[:length])
            position += length
            work.did(length)
    return sha.hexdigest()
