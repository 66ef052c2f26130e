"""Attaching without a kernel initiator: qemu-storage-daemon turns a LUN into a file.

Owns one daemon an attachment (iSCSI in, FUSE out) and the file it serves. Must not write to the
LUN. Fails with HostError that quotes the daemon.

A flush of the file (fsync) is a SYNCHRONIZE CACHE on the LUN: `cache.no-flush` is off. Pages
cached for the file belong to its FUSE mount and vanish with it, and nothing is written behind:
FUSE writes through. So a detached LUN leaves neither unwritten nor stale data here.

A loop device on this file must NOT use direct I/O: the FUSE export of QEMU (7.2 is what was
measured) has one request buffer and takes in the next request while a write is under way, so
that concurrent writes, which only direct I/O makes, store each other's data. Buffered writes to
one file are serialised by its inode lock.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostagent.attach.attacher import Device, LunAddress
from hostagent.attach.children import Children
from hostagent.attach.flushing import flush
from hostagent.filesystem.host_namespace import entrance
from hostagent.filesystem.mounts import find_mount, unmount_stale
from hostagent.programs import need_program
from hostagent.records import RecordStore

PROGRAM = "qemu-storage-daemon"
PACKAGE = "qemu-system-common and qemu-block-extra"


class QemuAttacher:
    """LUNs as files beneath `directory`. `chap` is a user and the file of the secret."""

    def __init__(
        self,
        directory: Path,
        initiator_name: str,
        chap: tuple[str, Path] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._directory = directory / "qemu"
        self._initiator_name = initiator_name
        self._chap = chap
        self._timeout_s = timeout_s
        self._children = Children(self._directory / "run")
        self._addresses = RecordStore(self._directory / "luns")

    def attach(self, key: str, address: LunAddress, *, writable: bool) -> Device:
        """Start the daemon; ready when its file is a mount."""
        there = self.attached(key, address)
        if there is not None:
            return there
        self.detach(key, abandon=True)
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._addresses.save(key, _record(address))
        self._children.start(
            key,
            self._arguments(path, address, writable),
            ready=lambda: find_mount(path) is not None,
            timeout_s=self._timeout_s,
            through=entrance(),
        )
        return Device(path, is_block=False)

    def attached(self, key: str, address: LunAddress) -> Device | None:
        """The file, while its daemon lives and serves that LUN."""
        path = self._path(key)
        if self._addresses.load(key) != _record(address) or not self._children.alive(key):
            return None
        return Device(path, is_block=False) if find_mount(path) is not None else None

    def detach(self, key: str, *, abandon: bool = False) -> None:
        """Flush, end the daemon (which flushes again), and remove the file."""
        path = self._path(key)
        if self._children.alive(key) and find_mount(path) is not None:
            flush(path, abandon=abandon)
        self._children.stop(key)
        # A daemon that was killed leaves its mount behind, dead.
        unmount_stale(path)
        path.unlink(missing_ok=True)
        self._addresses.delete(key)

    def drop_caches(self, key: str) -> None:
        """Drop the file's clean pages."""
        fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.lun"

    def _arguments(self, path: Path, address: LunAddress, writable: bool) -> list[str]:
        device = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": address.portal,
            "target": address.iqn,
            "lun": str(address.lun),
            "initiator-name": self._initiator_name,
            "node-name": "lun",
            "read-only": "off" if writable else "on",
            "cache.direct": "on",
            "cache.no-flush": "off",
        }
        argv = [need_program(PROGRAM, PACKAGE)]
        if self._chap is not None:
            user, secret = self._chap
            argv += [
                "--object",
                _options({"qom-type": "secret", "id": "chap", "file": str(secret)}),
            ]
            device |= {"user": user, "password-secret": "chap"}
        export = {
            "type": "fuse",
            "id": "file",
            "node-name": "lun",
            "mountpoint": str(path),
            "writable": "on" if writable else "off",
            "growable": "off",
        }
        return [*argv, "--blockdev", _options(device), "--export", _options(export)]


def _options(pairs: dict[str, str]) -> str:
    """QEMU's option syntax: a comma in a value is written twice."""
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in pairs.items())


def _record(address: LunAddress) -> dict[str, str | int]:
    return {"portal": address.portal, "iqn": address.iqn, "lun": address.lun}
