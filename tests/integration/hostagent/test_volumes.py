"""Attach, mount, write, freeze, unmount, detach on real file systems; the images stay clean."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from hostagent.attach.attacher import LunAddress
from hostagent.attach.qemu import QemuAttacher
from hostagent.errors import FsBusyError, HostError, ToolError
from hostagent.filesystem.freezing import Freeze, thaw
from hostagent.filesystem.loop import loops_of
from hostagent.filesystem.mounts import find_mount
from hostagent.filesystem.volumes import Filesystem, HostVolumes, MountPlan
from tests.integration.hostagent.conftest import Target, fsck, make_image

FILESYSTEMS: list[Filesystem] = ["ext4", "xfs", "btrfs"]
pytestmark = [pytest.mark.root, pytest.mark.tools]


def fill(folder: Path, seed: int = 0) -> dict[str, bytes]:
    files = {f"f{i}": os.urandom(20_000 + 997 * i + seed) for i in range(40)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_written_data_is_on_the_lun_after_detach(
    filesystem: Filesystem, volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    image = make_image(tmp_path / "image", filesystem)
    plan = MountPlan(target.serve(image), filesystem, runtime / "mnt")
    assert volumes.mount("vol", plan) == plan.mountpoint
    options = find_mount(plan.mountpoint)
    assert options is not None
    assert {"nosuid", "nodev", "noexec"} <= options.options
    files = fill(plan.mountpoint)
    assert volumes.mount("vol", plan) == plan.mountpoint, "mounting again is a no-op"
    volumes.unmount("vol")
    volumes.unmount("vol")
    assert find_mount(plan.mountpoint) is None
    assert not list((runtime / "attach/qemu").glob("*.lun"))
    fsck(image, filesystem)
    volumes.mount("vol", plan)
    assert read(plan.mountpoint) == files
    volumes.unmount("vol")


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_two_copies_of_one_file_system_side_by_side(
    filesystem: Filesystem, volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    one = make_image(tmp_path / "one", filesystem)
    two = tmp_path / "two"
    two.write_bytes(one.read_bytes())
    first = MountPlan(target.serve(one), filesystem, runtime / "m1", keep_atime=True)
    second = MountPlan(target.serve(two), filesystem, runtime / "m2", keep_atime=True)
    volumes.mount("one", first)
    volumes.mount("two", second)
    (first.mountpoint / "here").write_text("one")
    (second.mountpoint / "there").write_text("two")
    volumes.unmount("one")
    volumes.unmount("two")
    fsck(one, filesystem)
    fsck(two, filesystem)
    volumes.mount("two", second)
    assert sorted(read(second.mountpoint)) == ["there"]
    volumes.unmount("two")


def test_nothing_stale_is_read_after_the_lun_changed(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    image = make_image(tmp_path / "image", "ext4")
    other = make_image(tmp_path / "other", "ext4")
    plan = MountPlan(target.serve(image), "ext4", runtime / "mnt")
    other_plan = MountPlan(target.serve(other), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    before = fill(plan.mountpoint)
    volumes.unmount("vol")
    volumes.mount("oth", other_plan)
    after = fill(plan.mountpoint, seed=1)
    volumes.unmount("oth")
    with image.open("r+b") as file:
        file.write(other.read_bytes())
    volumes.mount("vol", plan)
    assert read(plan.mountpoint) == after != before
    volumes.unmount("vol")


def test_fuse2fs_replays_writes_and_leaves_a_clean_image(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    image = make_image(tmp_path / "image", "ext4")
    plan = MountPlan(target.serve(image), "ext4", runtime / "mnt", mount_with="fuse2fs")
    volumes.mount("vol", plan)
    files = fill(plan.mountpoint)
    volumes.unmount("vol")
    fsck(image, "ext4")
    kernel = MountPlan(plan.address, "ext4", runtime / "mnt", mount_with="kernel")
    volumes.mount("vol", kernel)
    assert read(plan.mountpoint) == files
    volumes.unmount("vol")


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_a_file_system_that_has_stopped_is_mounted_anew(
    filesystem: Filesystem, volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    image = make_image(tmp_path / "image", filesystem)
    plan = MountPlan(target.serve(image), filesystem, runtime / "mnt")
    volumes.mount("vol", plan)
    kept = fill(plan.mountpoint)
    os.sync()
    target.refuse_writes(refused=True)
    with pytest.raises(OSError, match=r"Read-only|Input/output"):  # noqa: PT012 - one of them
        for number in range(100):
            with (plan.mountpoint / f"lost-{number}").open("wb") as file:
                file.write(b"lost")
                file.flush()
                os.fsync(file.fileno())
    target.refuse_writes(refused=False)
    volumes.mount("vol", plan)
    assert read(plan.mountpoint).items() >= kept.items()
    kept |= fill(plan.mountpoint, seed=1)
    volumes.unmount("vol")
    fsck(image, filesystem)


def test_busy_is_refused_by_name_and_forced(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    image = make_image(tmp_path / "image", "ext4")
    plan = MountPlan(target.serve(image), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    files = fill(plan.mountpoint)
    with (plan.mountpoint / "f0").open("rb"):
        with pytest.raises(FsBusyError) as caught:
            volumes.unmount("vol")
        assert f"pid {os.getpid()}, {plan.mountpoint}/f0" in caught.value.message
        assert volumes.is_mounted("vol", plan)
        volumes.unmount("vol", force=True)
        assert find_mount(plan.mountpoint) is None
    volumes.mount("vol", plan)
    assert read(plan.mountpoint) == files
    volumes.unmount("vol")
    fsck(image, "ext4")


def test_a_restarted_agent_finds_what_is_mounted(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    plan = MountPlan(target.serve(make_image(tmp_path / "image", "ext4")), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    (plan.mountpoint / "x").write_text("kept")
    attacher = QemuAttacher(runtime / "attach", "iqn.2026-11.io.trilun:host.test")
    again = HostVolumes(attacher, runtime)
    assert again.is_mounted("vol", plan)
    assert again.mount("vol", plan) == plan.mountpoint
    again.unmount("vol")
    assert find_mount(plan.mountpoint) is None
    assert not volumes.is_mounted("vol", plan)
    volumes.unmount("vol")


def test_a_killed_initiator_is_noticed_and_replaced(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    plan = MountPlan(target.serve(make_image(tmp_path / "image", "ext4")), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    (plan.mountpoint / "x").write_text("kept")
    os.sync()
    volumes.drop_caches("vol", plan.mountpoint)
    os.kill(child_pid(runtime), signal.SIGKILL)
    wait_for(lambda: not volumes.is_mounted("vol", plan))
    volumes.mount("vol", plan)
    assert (plan.mountpoint / "x").read_text() == "kept"
    volumes.unmount("vol")
    assert not loops_of(runtime / "attach/qemu/vol.lun")


def child_pid(runtime: Path) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        if str(runtime / "attach").encode() in (entry / "cmdline").read_bytes():
            return int(entry.name)
    raise AssertionError("no initiator runs")


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_target_that_is_away_is_an_error_with_its_words(attacher: QemuAttacher) -> None:
    with pytest.raises(ToolError, match="qemu-storage-daemon ended at once"):
        attacher.attach("x", LunAddress("127.0.0.1:9", "iqn.2026-11.io.trilun:x", 1), writable=True)
    attacher.detach("x")


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_freeze_and_thaw(
    filesystem: Filesystem, volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    image = make_image(tmp_path / "image", filesystem)
    plan = MountPlan(target.serve(image), filesystem, runtime / "mnt")
    volumes.mount("vol", plan)
    files = fill(plan.mountpoint)
    freeze = Freeze.begin(plan.mountpoint, 20.0)
    assert freeze.holds
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(image.read_bytes())
    with pytest.raises(HostError, match="frozen by somebody else"):
        Freeze.begin(plan.mountpoint, 20.0)
    assert freeze.end() < 10
    assert not thaw(plan.mountpoint)
    (plan.mountpoint / "after").write_text("thawed")
    volumes.unmount("vol")
    copy = MountPlan(target.serve(snapshot), filesystem, runtime / "mnt")
    volumes.mount("cpy", copy)
    assert read(plan.mountpoint) == files, "everything written before the freeze, nothing after"
    volumes.unmount("cpy")


def test_the_guard_thaws_when_the_time_is_up(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    plan = MountPlan(target.serve(make_image(tmp_path / "image", "ext4")), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    freeze = Freeze.begin(plan.mountpoint, 0.2)
    (plan.mountpoint / "x").write_text("waits until thawed")
    wait_for(lambda: not freeze.holds)
    assert not thaw(plan.mountpoint)
    freeze.end()
    volumes.unmount("vol")


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_a_file_system_that_somebody_else_thaws_is_not_taken_for_frozen(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path, filesystem: Filesystem
) -> None:
    image = make_image(tmp_path / "image", filesystem)
    plan = MountPlan(target.serve(image), filesystem, runtime / "mnt")
    volumes.mount("vol", plan)
    freeze = Freeze.begin(plan.mountpoint, 20.0)
    assert freeze.lasts()
    assert freeze.lasts(), "looking changes nothing"
    assert thaw(plan.mountpoint)
    assert freeze.holds, "the guard doesn't know"
    assert not freeze.lasts()
    (plan.mountpoint / "x").write_text("nor is it frozen by looking")
    freeze.end()
    volumes.unmount("vol")


def test_an_agent_with_many_open_files_can_freeze(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    """select(2) can't wait for descriptors from 1,024 on."""
    plan = MountPlan(target.serve(make_image(tmp_path / "image", "ext4")), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), limits[1]))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        Freeze.begin(plan.mountpoint, 60.0).end()
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    volumes.unmount("vol")


def test_the_guard_thaws_when_the_agent_dies(
    volumes: HostVolumes, target: Target, tmp_path: Path, runtime: Path
) -> None:
    plan = MountPlan(target.serve(make_image(tmp_path / "image", "ext4")), "ext4", runtime / "mnt")
    volumes.mount("vol", plan)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Freeze.begin(plan.mountpoint, 60.0)
            os.write(tell, b"f")
            signal.pause()
        finally:
            os._exit(1)  # it must not go on as a second pytest
    assert os.read(ready, 1) == b"f"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (plan.mountpoint / "x").write_text("waits until thawed")
    os.close(ready)
    os.close(tell)
    wait_for(lambda: not thaw(plan.mountpoint))
    volumes.unmount("vol")


def test_chap(target: Target, tmp_path: Path, runtime: Path) -> None:
    address = target.serve(make_image(tmp_path / "image", "ext4"))
    target.protect("chapuser", "a-long-secret-1")
    secret = tmp_path / "secret"
    secret.write_text("a-long-secret-1")
    name = "iqn.2026-11.io.trilun:host.test"
    with pytest.raises(ToolError):
        QemuAttacher(runtime / "none", name).attach("x", address, writable=True)
    attacher = QemuAttacher(runtime / "chap", name, ("chapuser", secret))
    try:
        device = attacher.attach("x", address, writable=False)
        with device.path.open("rb") as file:
            file.seek(1024 + 56)
            assert file.read(2) == b"\x53\xef", "the superblock of ext4"
    finally:
        attacher.detach("x")
