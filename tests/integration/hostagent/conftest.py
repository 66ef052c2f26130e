"""Real LUNs for the agent: images served by tgtd on a free port, attached in user space."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.attach.attacher import LunAddress
from hostagent.attach.qemu import QemuAttacher
from hostagent.filesystem.volumes import HostVolumes
from hostagent.programs import find_program

TOOLS = {
    "tgtd": "tgt",
    "qemu-storage-daemon": "qemu-system-common",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "fuse2fs": "fuse2fs",
    "losetup": "util-linux",
}
IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
CHECK = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check"],
}


@pytest.fixture(autouse=True)
def prerequisites() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices)")
    for program, package in TOOLS.items():
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package {package}")


class Target:
    """A tgtd of our own, with one target an image."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._control = str(1 + port % 32000)
        self._number = 0

    def serve(self, image: Path) -> LunAddress:
        self._number += 1
        tid, iqn = str(self._number), f"iqn.2026-11.io.trilun:test.{self._number}"
        self.admin("target", "new", "--tid", tid, "-T", iqn)
        self.admin("logicalunit", "new", "--tid", tid, "--lun", "1", "-b", str(image))
        self.admin("target", "bind", "--tid", tid, "-I", "ALL")
        return LunAddress(f"127.0.0.1:{self._port}", iqn, 1)

    def refuse_writes(self, *, refused: bool) -> None:
        """Or take them again, at the target that was served last."""
        where = ("--tid", str(self._number), "--lun", "1")
        self.admin("logicalunit", "update", *where, "--params", f"readonly={int(refused)}")

    def protect(self, user: str, password: str) -> None:
        """Ask for CHAP at the target that was served last."""
        self.admin("account", "new", "--user", user, "--password", password)
        self.admin("account", "bind", "--tid", str(self._number), "--user", user)

    def admin(self, mode: str, action: str, *rest: str) -> None:
        argv = ["tgtadm", "-C", self._control, "--lld", "iscsi", "--mode", mode, "--op", action]
        subprocess.run([*argv, *rest], check=True, capture_output=True, timeout=20)

    def start(self) -> subprocess.Popen[bytes]:
        daemon = subprocess.Popen(
            ["tgtd", "-f", "-C", self._control, "--iscsi", f"portal=127.0.0.1:{self._port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.admin("sys", "show")
            except subprocess.CalledProcessError:
                assert daemon.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return daemon


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    if find_program("tgtd") is None or os.geteuid() != 0:
        pytest.skip("needs root, and 'tgtd' of the package tgt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = Target(port)
    daemon = target.start()
    try:
        yield target
    finally:
        daemon.kill()
        daemon.wait()


def make_image(path: Path, filesystem: str) -> Path:
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES[filesystem])
    subprocess.run([*MKFS[filesystem], str(path)], check=True, capture_output=True, timeout=60)
    return path


def fsck(path: Path, filesystem: str) -> None:
    done = subprocess.run(
        [*CHECK[filesystem], str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A short path: it becomes part of mount points and device files."""
    path = Path("/tmp") / f"trilun-test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def attacher(runtime: Path) -> QemuAttacher:
    return QemuAttacher(runtime / "attach", "iqn.2026-11.io.trilun:host.test")


@pytest.fixture
def volumes(runtime: Path, attacher: QemuAttacher) -> Iterator[HostVolumes]:
    volumes = HostVolumes(attacher, runtime)
    yield volumes
    for key in volumes.keys():  # noqa: SIM118 - a method
        volumes.unmount(key, force=True)
