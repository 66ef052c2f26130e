"""What the front end needs of the machine it runs on: configfs, uio nodes, netlink.

Owns the way to them, so that tests can have a machine of their own. A shell. Every call but
`events` and `addresses` may sleep in the kernel: they are for the worker's thread. Must not
decide anything. Fails with OSError, and `LioUnavailableError` from `check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from targets.lio import probe
from targets.lio.addresses import AddressWatch
from targets.lio.attentions import raise_at_all
from targets.lio.configfs import Folder, Operation
from targets.lio.events import DeviceEvent, DeviceEvents
from targets.lio.offered import ATTRIBUTES
from targets.lio.sessions import Listed
from targets.lio.tree import CONFIGFS_TARGET, carry_out, read_sessions, read_tree
from targets.lio.uio import UioDevice, uio_names
from targets.lio.wanted import Ownership


class Listener(Protocol):
    """Hears of changes from `start` to `close`."""

    async def start(self) -> None:
        """Raises OSError when the kernel can't be listened to."""

    async def close(self) -> None:
        """Stop listening."""


class Addresses(Listener, Protocol):
    """Knows which of a few addresses the machine has."""

    @property
    def present(self) -> frozenset[str]:
        """Those that it has now."""


class Machine(Protocol):
    """The kernel as a pass meets it. Paths are relative to configfs' target folder."""

    def check(self) -> list[str]:
        """Load what has to be loaded; sentences on what will be missing all the same."""

    def read(self, owner: Ownership) -> Folder:
        """All that a plan has to know."""

    def carry_out(self, step: Operation) -> None:
        """One step."""

    def act(self, path: str, name: str, value: str, unless: str = "") -> None:
        """Tell a device to do something, unless its state says that it is so already."""

    def sessions(self, group: str) -> Listed:
        """Who is logged in to a portal group, as the kernel lists it; nobody where it isn't."""

    def raise_attentions(self, lun_path: str) -> None:
        """Have every initiator of a LUN hear that something changed."""

    def uio_names(self) -> dict[str, str]:
        """TCMU devices, by the name that their node has."""

    def open(self, node: str) -> UioDevice:
        """Open and map a device; raises `UioError`."""

    def events(self, heard: Callable[[DeviceEvent | None], None]) -> Listener:
        """What happens to TCMU devices; None: look for yourself."""

    def addresses(self, hosts: Iterable[str], changed: Callable[[], None]) -> Addresses:
        """Which of them there are, and when that changes."""


class LinuxMachine:
    """This one."""

    def __init__(self, root: Path = CONFIGFS_TARGET) -> None:
        self._root = root

    def check(self) -> list[str]:
        """See `probe`."""
        return probe.check()

    def read(self, owner: Ownership) -> Folder:
        """See `tree`."""
        return read_tree(self._root, owner, tuple(ATTRIBUTES))

    def carry_out(self, step: Operation) -> None:
        """See `tree`."""
        carry_out(self._root, step)

    def act(self, path: str, name: str, value: str, unless: str = "") -> None:
        """Linux, drivers/target/target_core_user.c: block_dev, reset_ring."""
        file = self._root / path / "action" / name
        if not unless or file.read_text().strip() != unless:
            file.write_text(value)

    def sessions(self, group: str) -> Listed:
        """See `tree`."""
        return read_sessions(self._root / group)

    def raise_attentions(self, lun_path: str) -> None:
        """See `attentions`."""
        raise_at_all(self._root, lun_path)

    def uio_names(self) -> dict[str, str]:
        """See `uio`."""
        return uio_names()

    def open(self, node: str) -> UioDevice:
        """See `uio`."""
        return UioDevice(node)

    def events(self, heard: Callable[[DeviceEvent | None], None]) -> Listener:
        """See `events`."""
        return DeviceEvents(heard)

    def addresses(self, hosts: Iterable[str], changed: Callable[[], None]) -> Addresses:
        """See `addresses`."""
        return AddressWatch(hosts, changed)
