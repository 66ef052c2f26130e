"""The initiator of libiscsi, by ctypes: one session of one host with one LUN.

Owns a context of the library and what its calls mean. Must not decide what a lost connection is
worth: `SessionLostError` says that nobody knows whether the command was carried out,
`RefusedError` that the target said no. The library's calls release the interpreter, so sessions
of several threads work at once; one session belongs to one thread.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
from typing import Any

import pytest

LIBRARY = "libiscsi.so.7"
SECTOR_BYTES = 512
SESSION_NORMAL = 2  # enum iscsi_session_type of libiscsi
TRANSFER_READ = 1  # enum scsi_xfer_dir
GOOD = 0
FIRST_OWN_STATUS = 0x0F000000
"""From here on statuses are the library's own: cancelled, lost, timed out."""
ANSWER_WITHIN_S = 60


class SessionLostError(Exception):
    """The connection ended; a command under way may have been carried out or not."""


class RefusedError(Exception):
    """The target answered with another status than GOOD."""


class _UnmapRange(ctypes.Structure):
    _fields_ = (("lba", ctypes.c_uint64), ("blocks", ctypes.c_uint32))


def load_library() -> ctypes.CDLL:
    """The library with the signatures that are used here; skips the test when it isn't there."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        pytest.skip(f"needs '{LIBRARY}' of the package libiscsi7 (libiscsi-bin)")
    context, task = ctypes.c_void_p, ctypes.c_void_p
    number, small = ctypes.c_uint32, ctypes.c_int
    for name, result, arguments in (
        ("iscsi_create_context", context, [ctypes.c_char_p]),
        ("iscsi_destroy_context", small, [context]),
        ("iscsi_set_session_type", small, [context, small]),
        ("iscsi_set_targetname", small, [context, ctypes.c_char_p]),
        ("iscsi_set_noautoreconnect", None, [context, small]),
        ("iscsi_set_timeout", small, [context, small]),
        ("iscsi_full_connect_sync", small, [context, ctypes.c_char_p, small]),
        ("iscsi_logout_sync", small, [context]),
        ("iscsi_get_error", ctypes.c_char_p, [context]),
        (
            "iscsi_write10_sync",
            task,
            [context, small, number, ctypes.c_char_p, number, small, *[small] * 5],
        ),
        ("iscsi_synchronizecache10_sync", task, [context, small, small, small, small, small]),
        ("iscsi_unmap_sync", task, [context, small, small, small, ctypes.c_void_p, small]),
        ("scsi_create_task", task, [small, ctypes.c_char_p, small, small]),
        ("scsi_task_add_data_in_buffer", small, [task, small, ctypes.c_char_p]),
        ("iscsi_scsi_command_sync", task, [context, small, task, ctypes.c_void_p]),
        ("scsi_free_scsi_task", None, [task]),
    ):
        function: Any = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """Logged in while it exists; made by `Session(...)`, ended by `close` or by a loss."""

    def __init__(self, library: ctypes.CDLL, portal: str, iqn: str, initiator: str) -> None:
        self._library = library
        self._context = library.iscsi_create_context(initiator.encode())
        assert self._context, "out of memory"
        library.iscsi_set_session_type(self._context, SESSION_NORMAL)
        library.iscsi_set_targetname(self._context, iqn.encode())
        # What was acknowledged has to be known here: the library must not try again by itself.
        library.iscsi_set_noautoreconnect(self._context, 1)
        library.iscsi_set_timeout(self._context, ANSWER_WITHIN_S)
        if library.iscsi_full_connect_sync(self._context, portal.encode(), 0) != 0:
            self._lost()

    def write(self, offset_bytes: int, data: bytes, *, fua: bool = False) -> None:
        """WRITE(10)."""
        lba = offset_bytes // SECTOR_BYTES
        size = len(data)
        self._ended(
            self._library.iscsi_write10_sync(
                self._context, 0, lba, data, size, SECTOR_BYTES, 0, 0, int(fua), 0, 0
            )
        )

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """READ(10)."""
        lba, blocks = offset_bytes // SECTOR_BYTES, length_bytes // SECTOR_BYTES
        cdb = struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)
        buffer = ctypes.create_string_buffer(length_bytes)
        task = self._library.scsi_create_task(len(cdb), cdb, TRANSFER_READ, length_bytes)
        self._library.scsi_task_add_data_in_buffer(task, length_bytes, buffer)
        self._ended(self._library.iscsi_scsi_command_sync(self._context, 0, task, None), task)
        return buffer.raw

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        """UNMAP."""
        gone = _UnmapRange(offset_bytes // SECTOR_BYTES, length_bytes // SECTOR_BYTES)
        self._ended(self._library.iscsi_unmap_sync(self._context, 0, 0, 0, ctypes.byref(gone), 1))

    def flush(self) -> None:
        """SYNCHRONIZE CACHE(10) of everything."""
        self._ended(self._library.iscsi_synchronizecache10_sync(self._context, 0, 0, 0, 0, 0))

    def close(self) -> None:
        """Log out, if there is still somebody to log out from; can be repeated."""
        if self._context:
            self._library.iscsi_logout_sync(self._context)
            self._library.iscsi_destroy_context(self._context)
            self._context = None

    def _ended(self, task: int | None, made: int | None = None) -> None:
        status = None
        if task:
            # The first member of struct scsi_task.
            status = ctypes.cast(task, ctypes.POINTER(ctypes.c_int))[0]
        if task or made:
            self._library.scsi_free_scsi_task(task or made)
        if status is None or status >= FIRST_OWN_STATUS:
            self._lost()
        if status != GOOD:
            raise RefusedError(f"status {status}: {self._error()}")

    def _error(self) -> str:
        text: bytes = self._library.iscsi_get_error(self._context) or b""
        return text.decode(errors="replace").strip()

    def _lost(self) -> None:
        error = self._error()
        self._library.iscsi_destroy_context(self._context)
        self._context = None
        raise SessionLostError(error)
