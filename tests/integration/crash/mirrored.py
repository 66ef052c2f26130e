"""A file system on a mirrored volume: two controllers, a real initiator, a mount.

Owns all of it, from the image that mkfs makes to the unmount; nothing stays attached or mounted,
however a test ends. The secondary's disk is a recording. Fails with what the tools say.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from controller.api import messages as m
from controller.embedded import EmbeddedExporter
from controller.link.transport import Peer
from controller.volume.superblock import IntentSettings
from controller.volume.volume import Volume
from hostagent.attach.attacher import LunAddress
from hostagent.attach.qemu import QemuAttacher
from hostagent.filesystem.volumes import HostVolumes, MountPlan
from hostagent.programs import find_program, need_program, run_program
from targets.iscsi.server import IscsiServer
from tests.integration.crash.recording import PromisesT, Recording
from tests.rig import linked, remote_pair, start_node, write

Filesystem = Literal["ext4", "xfs"]
IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}
MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
FSCK = {"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}
OPTIONS = {"ext4": "loop,errors=remount-ro", "xfs": "loop,nouuid"}
PACKAGES = {
    "mount": "mount",
    "losetup": "mount",
    "qemu-storage-daemon": "qemu-system-common",
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "xfs_repair": "xfsprogs",
}
IQN = "iqn.2026-11.io.trilun:test.first"
HOST = "iqn.2026-11.example:host1"
PIECE_BYTES = 1 << 20
INTENT = IntentSettings(extent_bytes=1 << 20, hot_extents=32)


def need_loop_mounts() -> None:
    """Skip, by name, where a file system in a file can't be mounted."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices)")
    for program, package in PACKAGES.items():
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package {package}")
    for device in ("/dev/loop-control", "/dev/fuse"):
        if not Path(device).exists():
            pytest.skip(f"needs {device}")


@contextmanager
def short_directory() -> Iterator[Path]:
    """Mount points and device files have to have short paths."""
    path = Path(tempfile.mkdtemp(prefix="trilun-crash-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@asynccontextmanager
async def mirrored_filesystem(
    directory: Path, filesystem: Filesystem, recording: Recording[PromisesT]
) -> AsyncIterator[tuple[Path, Path]]:
    """Gives the mountpoint of the first volume, and the second's image from before the mount."""
    b = await start_node(
        directory / "b",
        "b",
        [Peer("a", "127.0.0.1", 1)],
        wrap=recording.wrap,
        intent=INTENT,
    )
    port = b.node.link_port
    a = await start_node(directory / "a", "a", [Peer("b", "127.0.0.1", port)], intent=INTENT)
    server = IscsiServer(clock=time.monotonic, random_bytes=secrets.token_bytes)
    exporter = EmbeddedExporter(server, None)
    try:
        await linked(a, b)
        size_bytes = IMAGE_BYTES[filesystem]
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=size_bytes))
        await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=size_bytes))
        await a.do("pair.create", remote_pair())
        image = directory / "made.img"
        make_filesystem(image, filesystem)
        await _fill(a.volume("first"), image)
        for each in (a, b):
            await each.until("remote", m.PairState.PAIR)
        recording.begin()
        await exporter.listen("127.0.0.1", 0)
        exporter.offer(IQN, a.volume("first"), [])
        with short_directory() as runtime:
            volumes = HostVolumes(QemuAttacher(runtime, HOST), runtime)
            address = LunAddress(exporter.portals[0], IQN, 0)
            plan = MountPlan(address, filesystem, runtime / "mnt", "kernel")
            try:
                yield await asyncio.to_thread(volumes.mount, "first", plan), image
            finally:
                await asyncio.to_thread(volumes.unmount, "first", force=True)
    finally:
        await exporter.close()
        await a.stop()
        await b.stop()


def make_filesystem(image: Path, filesystem: Filesystem) -> None:
    """An empty one in a sparse file."""
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES[filesystem])
    program, *options = MKFS[filesystem]
    run_program([need_program(program, PACKAGES[program]), *options, str(image)])


async def _fill(volume: Volume, image: Path) -> None:
    """Write what isn't zeros, as a host would."""
    zeros = bytes(PIECE_BYTES)
    with image.open("rb") as file:
        for offset_bytes in range(0, volume.size_bytes, PIECE_BYTES):
            piece = file.read(PIECE_BYTES)
            if piece != zeros:
                await write(volume, offset_bytes, piece)


@contextmanager
def mounted(image: Path, filesystem: Filesystem, mountpoint: Path) -> Iterator[None]:
    """Mount a throw-away image: its journal is replayed into it."""
    mountpoint.mkdir(exist_ok=True)
    options = ["-t", filesystem, "-o", OPTIONS[filesystem]]
    run_program([need_program("mount", "mount"), *options, str(image), str(mountpoint)])
    try:
        yield
    finally:
        run_program([need_program("umount", "mount"), str(mountpoint)])


def check_filesystem(image: Path, filesystem: Filesystem) -> None:
    """Raises ToolError with fsck's own words when it is not clean."""
    program, *options = FSCK[filesystem]
    run_program([need_program(program, PACKAGES[program]), *options, str(image)])
