"""What a file is besides its content: owner, mode, times, extended attributes.

Owns reading it, putting it on another file and comparing. POSIX ACLs, capabilities and labels
are extended attributes, so they come along as such. Everything is named by a directory's
descriptor and one name in it, and no link is followed. Fails with OSError, never silently: an
attribute that can't be set is an error.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Literal

from hostagent.errors import HostError

Kind = Literal["file", "directory", "symlink", "other"]

# The kernel's security modules put these on new files by themselves and may refuse their removal.
_KERNEL_OWN = frozenset({"security.selinux", "security.ima", "security.evm"})


@dataclass(frozen=True, slots=True)
class Metadata:
    """A file's inode as far as a copy keeps it. Times are nanoseconds since 1970."""

    mode: int
    uid: int
    gid: int
    size_bytes: int
    allocated_bytes: int
    atime_ns: int
    mtime_ns: int
    rdev: int
    device: int
    inode: int
    links: int
    xattrs: tuple[tuple[str, bytes], ...]

    @property
    def kind(self) -> Kind:
        """What sort of file it is."""
        if stat.S_ISREG(self.mode):
            return "file"
        if stat.S_ISDIR(self.mode):
            return "directory"
        return "symlink" if stat.S_ISLNK(self.mode) else "other"

    def differences(self, other: Metadata) -> list[str]:
        """What a copy must keep and `other` has differently, as words.

        Access times are left out: reading alone changes them. A directory's size says nothing
        about its content.
        """
        found = []
        if self.mode != other.mode:
            found.append("mode")
        if (self.uid, self.gid) != (other.uid, other.gid):
            found.append("owner")
        if self.mtime_ns != other.mtime_ns:
            found.append("modification time")
        if self.kind in {"file", "symlink"} and self.size_bytes != other.size_bytes:
            found.append("size")
        if self.kind == "other" and self.rdev != other.rdev:
            found.append("device number")
        if _comparable(self.xattrs, other.xattrs) != _comparable(other.xattrs, self.xattrs):
            found.append("extended attributes")
        return found


def _comparable(
    xattrs: tuple[tuple[str, bytes], ...], other: tuple[tuple[str, bytes], ...]
) -> dict[str, bytes]:
    """The attributes to compare: a kernel's own only where the other side has them too."""
    names = {name for name, _ in other}
    return {name: value for name, value in xattrs if name not in _KERNEL_OWN or name in names}


def read_metadata(dir_fd: int, name: str) -> Metadata:
    """Read a file's metadata. `name` '.' is the directory itself."""
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    return Metadata(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size_bytes=status.st_size,
        allocated_bytes=status.st_blocks * 512,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        rdev=status.st_rdev,
        device=status.st_dev,
        inode=status.st_ino,
        links=status.st_nlink,
        xattrs=_read_xattrs(dir_fd, name),
    )


def try_metadata(dir_fd: int, name: str) -> Metadata | None:
    """Like `read_metadata`, or None when there is no such file."""
    try:
        return read_metadata(dir_fd, name)
    except FileNotFoundError:
        return None


def apply_metadata(dir_fd: int, name: str, wanted: Metadata) -> None:
    """Give a file the wanted owner, mode, attributes and times.

    The order matters: a change of owner clears set-id bits and capabilities, the mode changes an
    ACL's mask, and every change but the last one's moves the times.
    """
    os.chown(name, wanted.uid, wanted.gid, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISLNK(wanted.mode):
        os.chmod(_by_descriptor(dir_fd, name), stat.S_IMODE(wanted.mode))  # noqa: PTH101
    _apply_xattrs(dir_fd, name, dict(wanted.xattrs))
    times = (wanted.atime_ns, wanted.mtime_ns)
    os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)


def _by_descriptor(dir_fd: int, name: str) -> str:
    # The calls for attributes have no form with a directory's descriptor.
    return f"/proc/self/fd/{dir_fd}/{name}"


def _read_xattrs(dir_fd: int, name: str) -> tuple[tuple[str, bytes], ...]:
    path = _by_descriptor(dir_fd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return ()
        raise
    found = []
    for attribute in sorted(names):
        try:
            found.append((attribute, os.getxattr(path, attribute, follow_symlinks=False)))
        except OSError as exc:
            # Gone since it was listed, or an ACL that is listed but empty.
            if exc.errno != errno.ENODATA:
                raise
    return tuple(found)


def _apply_xattrs(dir_fd: int, name: str, wanted: dict[str, bytes]) -> None:
    path = _by_descriptor(dir_fd, name)
    present = dict(_read_xattrs(dir_fd, name))
    for attribute in present.keys() - wanted.keys() - _KERNEL_OWN:
        os.removexattr(path, attribute, follow_symlinks=False)
    for attribute, value in wanted.items():
        if present.get(attribute) == value:
            continue
        try:
            os.setxattr(path, attribute, value, follow_symlinks=False)
        except OSError as exc:
            raise HostError(
                f"can't set the attribute {attribute} on '{name}': {exc.strerror}",
                "mount the volumes with the same kernel and options as host 1",
            ) from exc
