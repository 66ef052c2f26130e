"""Volumes on this host: attached and mounted under a key, or not there at all.

Owns the order of things (attach, loop device, mount; and back) and what is kept of it in the
runtime directory. Must not make, grow or repair a file system beyond replaying its journal.
`mount` and `unmount` can be repeated in any state, also after the agent was killed between two
of their steps. Fails with HostError. Every call blocks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostagent.attach.attacher import Attacher, Device, LunAddress
from hostagent.attach.children import Children
from hostagent.errors import FsBusyError, HostError
from hostagent.filesystem import btrfs
from hostagent.filesystem.host_namespace import entrance, make_mountpoint, run_on_host
from hostagent.filesystem.loop import drop_loops, loops_of, make_loop
from hostagent.filesystem.mounts import Mount, find_mount, unmount, unmount_stale
from hostagent.programs import need_program, run_program
from hostagent.records import RecordStore

MOUNT_TIMEOUT_S = 300.0
"""A mount replays the journal, which takes its time on a large file system."""

Filesystem = Literal["ext4", "xfs", "btrfs"]

SAFE_OPTIONS = ("nosuid", "nodev", "noexec")
EXTRA_OPTIONS: dict[Filesystem, tuple[str, ...]] = {
    "ext4": ("errors=remount-ro",),
    # The second volume and the view of the third have the same uuid, as copies do.
    "xfs": ("nouuid",),
    "btrfs": (),
}


@dataclass(frozen=True, slots=True)
class MountPlan:
    """How a volume is to be mounted."""

    address: LunAddress
    filesystem: Filesystem
    mountpoint: Path
    mount_with: Literal["kernel", "fuse2fs", "auto"] = "auto"
    keep_atime: bool = False
    """Don't change access times by reading."""

    @property
    def in_user_space(self) -> bool:
        """Whether fuse2fs mounts it."""
        if self.mount_with == "auto":
            return os.geteuid() != 0
        return self.mount_with == "fuse2fs"


class HostVolumes:
    """Everything this agent has attached and mounted."""

    def __init__(self, attacher: Attacher, runtime_dir: Path) -> None:
        self._attacher = attacher
        self._records = RecordStore(runtime_dir / "mounted")
        self._children = Children(runtime_dir / "fuse2fs")

    def mount(self, key: str, plan: MountPlan) -> Path:
        """Attach and mount; returns the mountpoint. What is there already and works stays.

        A file system that has stopped by itself is mounted anew, without what it could not write.
        """
        if self._serves(key, plan):
            _regain_writes(plan.mountpoint)
            return plan.mountpoint
        self.unmount(key, abandon=True)
        foreign = find_mount(plan.mountpoint)
        if foreign is not None:
            raise HostError(
                f"{plan.mountpoint} has {foreign.source} mounted already",
                f"unmount {plan.mountpoint}, or configure another mountpoint",
            )
        record = {"mountpoint": str(plan.mountpoint)}
        self._records.save(key, record)
        device = self._attacher.attach(key, plan.address, writable=True)
        self._records.save(key, {**record, "device": str(device.path), "block": device.is_block})
        make_mountpoint(plan.mountpoint)
        if plan.in_user_space:
            self._mount_in_user_space(key, device, plan)
        else:
            _mount_by_kernel(device, plan)
        return plan.mountpoint

    def is_mounted(self, key: str, plan: MountPlan) -> bool:
        """Whether the LUN is attached, alive and mounted where it should be."""
        device = self._attacher.attached(key, plan.address)
        mount = find_mount(plan.mountpoint)
        if device is None or mount is None:
            return False
        if plan.in_user_space:
            return mount.filesystem.startswith("fuse") and self._children.alive(key)
        return _is_ours(mount, device)

    def _serves(self, key: str, plan: MountPlan) -> bool:
        mount = find_mount(plan.mountpoint)
        return self.is_mounted(key, plan) and mount is not None and not mount.stopped

    def unmount(self, key: str, *, force: bool = False, abandon: bool = False) -> None:
        """Unmount and detach, everything flushed; nothing of the volume stays cached here.

        Raises FsBusyError that names who holds it. With `force` a busy file system is synced and
        taken away beneath its users, who get errors from then on. Raises UnflushedError, attached
        still; with `abandon` what can't be flushed is given up.
        """
        record = self._records.load(key)
        if record is None:
            self._attacher.detach(key, abandon=abandon)
            return
        mountpoint = Path(record["mountpoint"])
        # Noted, not looked up: a file whose initiator died can't even be asked what it is.
        device = Device(Path(record["device"]), record["block"]) if "device" in record else None
        if self._holds(mountpoint, device):
            try:
                unmount(mountpoint)
            except FsBusyError:
                if not force:
                    raise
                _sync(mountpoint)
                unmount(mountpoint, lazy=True)
        self._detach(key, device, lazy=force, abandon=abandon)
        self._records.delete(key)

    def drop_caches(self, key: str, mountpoint: Path) -> None:
        """Write everything to the LUN and let the next reads come from there."""
        _sync(mountpoint)
        self._attacher.drop_caches(key)

    def keys(self) -> list[str]:
        """What is attached or mounted, or was when the agent died."""
        return self._records.names()

    def _holds(self, mountpoint: Path, device: Device | None) -> bool:
        """Whether what is mounted there is ours, and not an operator's own mount."""
        mount = find_mount(mountpoint)
        if mount is None or device is None:
            return False
        if mount.filesystem.startswith("fuse"):
            return True
        return _is_ours(mount, device)

    def _detach(self, key: str, device: Device | None, *, lazy: bool, abandon: bool) -> None:
        if self._children.alive(key):
            if lazy:
                self._children.stop(key)
            else:
                # Unmounted, it still writes what it has; only its end says that this is done.
                self._children.wait_gone(key, MOUNT_TIMEOUT_S)
        if device is not None:
            if device.is_block:
                btrfs.forget(device.path)
            else:
                for loop in loops_of(device.path):
                    btrfs.forget(loop)
                drop_loops(device.path, wait=not lazy)
        self._attacher.detach(key, abandon=abandon)

    def _mount_in_user_space(self, key: str, device: Device, plan: MountPlan) -> None:
        if plan.filesystem != "ext4":
            raise HostError(
                f"{plan.filesystem} can't be mounted in user space",
                "run the agent as root, with mount_with 'kernel'",
            )
        program = need_program("fuse2fs", "fuse2fs")
        # 1: errors were corrected, which here is the journal being replayed.
        check = [need_program("e2fsck", "e2fsprogs"), "-p", str(device.path)]
        run_program(check, timeout_s=MOUNT_TIMEOUT_S, ok=frozenset({0, 1}))
        options = ["rw", *SAFE_OPTIONS]
        options.append("allow_other" if os.geteuid() == 0 else "fakeroot")
        argv = [program, "-f", "-o", ",".join(options), str(device.path), str(plan.mountpoint)]
        unmount_stale(plan.mountpoint)
        self._children.start(
            key,
            argv,
            ready=lambda: find_mount(plan.mountpoint) is not None,
            timeout_s=MOUNT_TIMEOUT_S,
            through=entrance(),
        )


def _mount_by_kernel(device: Device, plan: MountPlan) -> None:
    source = device.path if device.is_block else make_loop(device.path)
    if plan.filesystem == "btrfs":
        btrfs.refuse_twin(source)
    options = [*SAFE_OPTIONS, *EXTRA_OPTIONS[plan.filesystem]]
    if plan.keep_atime:
        options.append("noatime")
    argv = [need_program("mount", "mount"), "-n", "-i", "-t", plan.filesystem]
    argv += ["-o", ",".join(options), "--", str(source), str(plan.mountpoint)]
    run_on_host(argv, timeout_s=MOUNT_TIMEOUT_S)


def _regain_writes(mountpoint: Path) -> None:
    """Undo, in our view alone, what a service's read-only paths do to mounts it finds at its start.

    ProtectSystem=strict of systemd.exec(5) covers what is mounted then; what comes later is as the
    host has it.
    """
    if entrance() and os.statvfs(mountpoint).f_flag & os.ST_RDONLY:
        options = ",".join(("remount", "bind", "rw", *SAFE_OPTIONS))
        run_program([need_program("mount", "mount"), "-n", "-o", options, "--", str(mountpoint)])


def _is_ours(mount: Mount, device: Device) -> bool:
    sources = [device.path] if device.is_block else loops_of(device.path)
    return mount.source in {str(source) for source in sources}


def _sync(mountpoint: Path) -> None:
    """syncfs(2), whose errors tell of writes that got lost (Linux 5.8)."""
    run_program([need_program("sync", "coreutils"), "-f", str(mountpoint)])
