"""Attaching with the kernel's initiator, by iscsiadm.

Owns an interface, named after its node, and the node records of its own targets: every call names
target, portal and interface, so that several agents of one host, and whoever attaches something by
hand there, don't meet. The device is found below the session's own folder in /sys, never by a uuid
or a name another volume could share. The interface's record is shared by all targets, and iscsiadm
reads it unlocked while it is written: it is written by one thread at a time, and only where it is
not as it should be. Must not scan, discover or log out anything else. Fails with HostError that
quotes iscsiadm.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

from controller.service.config import ChapConfig, read_secret
from hostagent.attach.attacher import Device, LunAddress
from hostagent.attach.flushing import flush
from hostagent.errors import HostError
from hostagent.programs import need_program, run_program
from hostagent.records import RecordStore

INTERFACE_MAX_CHARS = 64
"""ISCSI_MAX_IFACE_LEN of open-iscsi, without its NUL."""
POLL_S = 0.05
_EXISTS = 15
_NOT_FOUND = 21
_ANY = frozenset(range(256))
"""Whatever is wrong with a record that is to be written, writing it will tell."""
_SYS = Path("/sys")


class OpenIscsiAttacher:
    """LUNs as the kernel's SCSI disks."""

    def __init__(
        self,
        node: str,
        state: Path,
        initiator_name: str,
        chap: ChapConfig | None = None,
        timeout_s: float = 30.0,
        sys: Path = _SYS,
    ) -> None:
        self._interface = interface_of(node)
        self._initiator_name = initiator_name
        self._chap = chap
        self._timeout_s = timeout_s
        self._sys = sys
        self._records = RecordStore(state / "open-iscsi")
        self._writing = threading.Lock()

    def attach(self, key: str, address: LunAddress, *, writable: bool) -> Device:  # noqa: ARG002
        """Log in and wait for the disk. The target says itself whether it may be written."""
        there = self.attached(key, address)
        if there is not None:
            return there
        self.detach(key, abandon=True)
        self._records.save(key, {"portal": address.portal, "iqn": address.iqn, "lun": address.lun})
        self._make_interface()
        self._node(address, "-o", "new")
        for name, value in self._settings().items():
            self._node(address, "-o", "update", "-n", name, "-v", value)
        self._node(address, "--login", ok=frozenset({0, _EXISTS}))
        deadline = time.monotonic() + self._timeout_s
        while (device := self.attached(key, address)) is None:
            if time.monotonic() > deadline:
                self.detach(key)
                raise HostError(
                    f"no disk appeared for {address.iqn} within {self._timeout_s:.0f} s",
                    "load the kernel module sd_mod, and look at dmesg",
                )
            time.sleep(POLL_S)
        return device

    def attached(self, key: str, address: LunAddress) -> Device | None:
        """The disk of the session with that target, once its node in /dev is there."""
        record = self._records.load(key)
        if record != {"portal": address.portal, "iqn": address.iqn, "lun": address.lun}:
            return None
        name = find_disk(self._sys, self._interface, address)
        path = Path("/dev") / name if name else None
        return Device(path, is_block=True) if path is not None and path.exists() else None

    def detach(self, key: str, *, abandon: bool = False) -> None:
        """Flush the disk, log out and delete the node record. Raises UnflushedError."""
        record = self._records.load(key)
        if record is None:
            return
        address = LunAddress(record["portal"], record["iqn"], record["lun"])
        name = find_disk(self._sys, self._interface, address)
        if name is not None:
            flush(Path("/dev") / name, abandon=abandon)
        # Its file may be gone: the host has crashed, or keeps nothing in /etc.
        self._make_interface()
        gone = frozenset({0, _NOT_FOUND})
        self._node(address, "--logout", ok=gone)
        self._node(address, "-o", "delete", ok=gone)
        self._records.delete(key)

    def drop_caches(self, key: str) -> None:
        """Drop the disk's cached blocks."""
        record = self._records.load(key)
        if record is not None:
            address = LunAddress(record["portal"], record["iqn"], record["lun"])
            name = find_disk(self._sys, self._interface, address)
            if name is not None:
                run_program(
                    [need_program("blockdev", "util-linux"), "--flushbufs", f"/dev/{name}"],
                    timeout_s=self._timeout_s,
                )

    def _make_interface(self) -> None:
        base = [_iscsiadm(), "-m", "iface", "-I", self._interface]
        wanted = {"iface.transport_name": "tcp", "iface.initiatorname": self._initiator_name}
        with self._writing:
            shown = run_program(base, timeout_s=self._timeout_s, ok=_ANY)
            if wanted.items() <= _settings_in(shown).items():
                return
            run_program([*base, "-o", "new"], timeout_s=self._timeout_s, ok=frozenset({0, _EXISTS}))
            for name, value in wanted.items():
                update = [*base, "-o", "update", "-n", name, "-v", value]
                run_program(update, timeout_s=self._timeout_s)

    def _node(self, address: LunAddress, *action: str, ok: frozenset[int] = frozenset({0})) -> str:
        where = ["-T", address.iqn, "-p", address.portal, "-I", self._interface]
        return run_program(
            [_iscsiadm(), "-m", "node", *where, *action], timeout_s=self._timeout_s, ok=ok
        )

    def _settings(self) -> dict[str, str]:
        settings = {"node.startup": "manual", "node.session.scan": "auto"}
        if self._chap is None:
            return settings
        settings["node.session.auth.authmethod"] = "CHAP"
        settings["node.session.auth.username"] = self._chap.user
        secret = read_secret(self._chap.secret_file)
        settings["node.session.auth.password"] = secret.get_secret_value()
        if self._chap.mutual_user is not None and self._chap.mutual_secret_file is not None:
            settings["node.session.auth.username_in"] = self._chap.mutual_user
            secret = read_secret(self._chap.mutual_secret_file)
            settings["node.session.auth.password_in"] = secret.get_secret_value()
        return settings


def _iscsiadm() -> str:
    return need_program("iscsiadm", "open-iscsi")


def _settings_in(shown: str) -> dict[str, str]:
    """A record as iscsiadm shows it: `name = value`, a line each."""
    pairs = (line.partition(" = ") for line in shown.splitlines())
    return {name: value for name, _, value in pairs}


def interface_of(node: str) -> str:
    """The name of a node's interface. A long node's is told from others' by its digest."""
    name = f"trilun-{node}"
    if len(name) > INTERFACE_MAX_CHARS:
        return f"trilun-{hashlib.sha256(node.encode()).hexdigest()[:32]}"
    return name


def find_disk(sys: Path, interface: str, address: LunAddress) -> str | None:
    """The kernel's name (`sdb`) of the disk that the interface's session with the target has for
    the LUN."""
    wanted = {"targetname": address.iqn, "ifacename": interface}
    for session in sorted((sys / "class/iscsi_session").glob("session*")):
        try:
            if any((session / name).read_text().strip() != wanted[name] for name in wanted):
                continue
        except OSError:
            continue  # it ended while we looked
        pattern = f"target*/*:*:*:{address.lun}/block/*"
        for disk in sorted((session / "device").glob(pattern)):
            return disk.name
    return None
