"""A machine with LIO in memory: configfs, uio nodes, netlink, and what goes wrong with them."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterable

from targets.lio.configfs import Folder, Operation
from targets.lio.events import DeviceEvent
from targets.lio.sessions import Listed
from targets.lio.uio import UioBusyError, UioDevice
from targets.lio.wanted import Ownership
from tests.unit.targets.lio.kernel import KernelRing
from tests.unit.targets.lio.tree import Configfs

_CONFIG = re.compile(r"Config: (\S+)")


class StandInUio(UioDevice):
    """A uio device without a kernel: an eventfd announces, a poke collects."""

    def __init__(
        self, kernel: KernelRing | None = None, released: Callable[[], object] | None = None
    ) -> None:
        self.kernel = kernel or KernelRing(ring_bytes=8192)
        self.node = "uio0"
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.area = self.kernel.view
        self.pokes = 0
        self.gone = False
        self.closes = 0
        self._released = released

    def announce(self) -> None:
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        if self.gone:
            raise OSError(errno.EIO, "gone")
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def poke(self) -> None:
        if self.gone:
            raise OSError(errno.EIO, "gone")
        self.pokes += 1
        self.kernel.collect()

    def close(self) -> bool:
        self.closes += 1
        os.close(self.fd)
        if self._released is not None:
            self._released()
        return True


class Watch:
    """Of addresses, and of events: nothing comes unless a test says so."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self.present = frozenset(hosts)

    async def start(self) -> None:
        """There is nothing to begin."""

    async def close(self) -> None:
        """Nor to end."""


class InMemoryMachine:
    """Stands for the kernel. Its calls come from the worker's thread."""

    def __init__(self) -> None:
        self.tree = Configfs()
        self.rings: dict[str, KernelRing] = {}
        self.open_nodes: dict[str, StandInUio] = {}
        self.blocked: dict[str, bool] = {}
        self.resets: list[str] = []
        self.refuse: Callable[[str], OSError | None] = lambda _what: None
        """Asked with `repr(step)`, or `path action=value`, before each change."""
        self.hang: threading.Event | None = None
        """While it is there, and not set, no change comes back."""
        self.dynamic = ""
        """`dynamic_sessions` of every portal group."""
        self.infos: dict[str, str] = {}
        """The `info` of initiators with an ACL that are logged in."""
        self.watch = Watch()
        self.heard: Callable[[DeviceEvent | None], None] = lambda _event: None
        self.addresses_changed: Callable[[], None] = lambda: None

    def _ask(self, what: str) -> None:
        if self.hang is not None:
            self.hang.wait()
        error = self.refuse(what)
        if error is not None:
            raise error

    def check(self) -> list[str]:
        return []

    def read(self, owner: Ownership) -> Folder:
        return self.tree.root.copied()

    def carry_out(self, step: Operation) -> None:
        self._ask(repr(step))
        self.tree.do(step)

    def act(self, path: str, name: str, value: str, unless: str = "") -> None:
        if unless == ("blocked" if self.blocked.get(path) else "unblocked"):
            return
        self._ask(f"{path} {name}={value}")
        if name == "block_dev":
            self.blocked[path] = value == "1"
        else:
            self.resets.append(path)

    def sessions(self, group: str) -> Listed:
        acls = self.tree.root.find(f"{group}/acls") or Folder()
        nobody = "No active iSCSI Session for Initiator Endpoint: {}\n"
        infos = {name: self.infos.get(name, nobody.format(name)) for name in acls.folders}
        return Listed(self.dynamic, infos)

    def raise_attentions(self, lun_path: str) -> None:
        """Nobody is logged in."""

    def uio_names(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for hba, adapter in self.tree.root.folders["core"].folders.items():
            for name, device in adapter.folders.items():
                config = _CONFIG.search(device.files.get("info", ""))
                if hba.startswith("user_") and config:
                    number = hba.removeprefix("user_")
                    found[f"tcm-user/{number}/{name}/{config[1]}"] = f"uio-{name}"
        return found

    def open(self, node: str) -> UioDevice:
        if node in self.open_nodes:
            raise UioBusyError(f"another process has /dev/{node} open")
        ring = self.rings.setdefault(node, KernelRing(ring_bytes=8192))
        uio = StandInUio(ring, lambda: self.open_nodes.pop(node, None))
        self.open_nodes[node] = uio
        return uio

    def events(self, heard: Callable[[DeviceEvent | None], None]) -> Watch:
        self.heard = heard
        return Watch()

    def addresses(self, hosts: Iterable[str], changed: Callable[[], None]) -> Watch:
        self.watch = Watch(hosts)
        self.addresses_changed = changed
        return self.watch
