"""A TCMU device's uio node: found by name, mapped, read and poked.

Owns the file descriptor and the mapping of one device. A shell: opens files, maps memory. Must
not walk the ring. Fails with `UioError`, or OSError with EIO once the kernel has taken the
device away.

Linux, drivers/uio/uio.c and drivers/target/target_core_user.c: the node can be opened once at a
time, and only as a whole; a read of four bytes resets what made it readable, a write of four
bytes makes the kernel collect the answers.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from targets.lio.layout import TcmuError

UIO_CLASS = Path("/sys/class/uio")
NAME_PREFIX = "tcm-user/"
_POKE = bytes(4)
_EVENT_BYTES = 4


class UioError(TcmuError):
    """The device's node can't be opened or mapped."""


class UioBusyError(UioError):
    """Another process has the node open."""


def uio_names(uio_class: Path = UIO_CLASS) -> dict[str, str]:
    """All TCMU devices: name (`tcm-user/<hba>/<backstore>/<config>`) to node (`uio3`)."""
    found: dict[str, str] = {}
    try:
        nodes = sorted(uio_class.iterdir())
    except FileNotFoundError:  # no uio device at all yet
        return found
    for node in nodes:
        try:
            name = (node / "name").read_text().rstrip("\n")
        except OSError:  # it goes away just now
            continue
        if name.startswith(NAME_PREFIX):
            found[name] = node.name
    return found


class UioDevice:
    """One open, mapped device."""

    def __init__(self, node: str, *, uio_class: Path = UIO_CLASS, dev: Path = Path("/dev")) -> None:
        """Open `node` (`uio3`); raises `UioBusyError`, `UioError`."""
        self.node = node
        try:
            size = int((uio_class / node / "maps/map0/size").read_text(), 16)
            self.fd = os.open(dev / node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise UioBusyError(
                    f"another process has /dev/{node} open; stop the controller that runs already"
                ) from error
            raise UioError(f"/dev/{node}: {error.strerror}; look for it in dmesg") from error
        try:
            self._map = mmap.mmap(self.fd, size)
        except (OSError, ValueError) as error:
            os.close(self.fd)
            raise UioError(f"/dev/{node} can't be mapped: {error}") from error
        self.area = memoryview(self._map)

    def clear(self) -> None:
        """Take the event that made it readable; raises OSError with EIO when the device went."""
        try:
            os.read(self.fd, _EVENT_BYTES)
        except BlockingIOError:
            return

    def poke(self) -> None:
        """Make the kernel collect the answers; raises OSError with EIO when the device went."""
        os.write(self.fd, _POKE)

    def close(self) -> bool:
        """Let go of both; False when something still points into the mapping.

        The descriptor is closed in any case; the mapping then goes with what points into it.
        """
        os.close(self.fd)
        self.area.release()
        try:
            self._map.close()
        except BufferError:
            return False
        return True
