"""Opening files beneath a directory, with the kernel refusing every way out.

Owns openat2(2) and the grammar of requested paths. Must not follow a link, climb by '..', enter
a magic link or cross a mount, ever: RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS and NO_XDEV are
always set. Fails with `PathRefusedError` for a refused path, OSError for everything else.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import PurePosixPath

from hostagent.errors import HostError, PathRefusedError

SYS_OPENAT2 = 437  # the same on every architecture (include/uapi/asm-generic/unistd.h)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MAX_RETRIES = 32


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` (relative; empty is the root itself) beneath `root_fd`; a new descriptor.

    Raises PathRefusedError when the kernel says that it leads out or through a link.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE)
    raw = os.fsencode(path or ".")
    for _ in range(MAX_RETRIES):
        fd: int = _libc.syscall(
            SYS_OPENAT2,
            ctypes.c_int(root_fd),
            ctypes.c_char_p(raw),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        # EAGAIN: a rename somewhere made the kernel unsure of the way; it asks us to try again.
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    else:
        code = errno.EAGAIN
    raise _error(code, path)


def _error(code: int, path: str) -> Exception:
    if code == errno.EXDEV:
        return PathRefusedError(path, "it leads out of the volume, or into another file system")
    if code == errno.ELOOP:
        return PathRefusedError(path, "it leads through a symbolic link")
    if code == errno.ENOSYS:
        return HostError("this kernel has no openat2", "run the agent on Linux 5.6 or newer")
    return OSError(code, os.strerror(code), path)


def open_directory(root_fd: int, path: str) -> int:
    """Open a directory beneath `root_fd` for reading."""
    return open_beneath(root_fd, path, DIRECTORY_FLAGS)


def parent_of(path: str) -> tuple[str, str]:
    """A relative path's directory ('' for the root) and last name."""
    directory, _, name = path.rpartition("/")
    return directory, name


def joined(directory: str, name: str) -> str:
    """A relative path from a relative directory ('' for the root) and a name."""
    return f"{directory}/{name}" if directory else name


def requested_path(text: str, mountpoint: PurePosixPath) -> str:
    """The path beneath the volume's root that an operator means; '' is the whole volume.

    Taken as host 1's absolute path where it lies beneath `mountpoint`, else as a path from the
    volume's root. Raises PathRefusedError for '..' and NUL.
    """
    if "\0" in text:
        raise PathRefusedError(text.replace("\0", "\\0"), "it holds a NUL")
    path = PurePosixPath(text)
    if ".." in path.parts:
        raise PathRefusedError(text, "it holds '..'")
    if path.is_absolute():
        # '//x' is absolute as well, and pathlib keeps both slashes.
        path = PurePosixPath("/" + str(path).lstrip("/"))
        base = mountpoint if path.is_relative_to(mountpoint) else PurePosixPath("/")
        path = path.relative_to(base)
    return "" if path == PurePosixPath() else str(path)


def without_nested(paths: list[str]) -> list[str]:
    """The paths sorted, each once, without those that lie beneath another one."""
    kept: set[str] = set()
    for path in sorted(set(paths), key=lambda p: (p.count("/"), p)):
        above = path
        while above and above not in kept:
            above = parent_of(above)[0]
        if above not in kept:
            kept.add(path)
    return sorted(kept)


def shown(path: str) -> str:
    """A path for messages and answers: what isn't UTF-8 is escaped; '/' is the root."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") or "/"
