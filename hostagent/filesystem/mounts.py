"""What is mounted here, and taking it away.

Owns reading /proc/self/mountinfo (proc(5)) and umount, which is done on the host: from there it
reaches us. Must not mount. A lazy unmount happens only when asked for by name, or when what is
behind the mount is dead already. Fails with `FsBusyError` that names the holders, or ToolError.
Blocks.
"""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from hostagent.errors import FsBusyError, ToolError
from hostagent.filesystem.holders import holders_of
from hostagent.filesystem.host_namespace import run_on_host
from hostagent.programs import need_program

UNMOUNT_TIMEOUT_S = 120.0
BUSY_RETRY_S = 2.0
POLL_S = 0.1
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    mountpoint: Path
    filesystem: str
    source: str
    root: str
    options: frozenset[str]
    read_only: bool
    """The file system itself, not only this view of it."""

    @property
    def stopped(self) -> bool:
        """Whether it has given up by itself, as file systems do when they can't write."""
        if self.read_only:
            return True
        try:
            with os.scandir(self.mountpoint) as entries:
                next(entries, None)
        except OSError as exc:
            return exc.errno == errno.EIO
        return False


def mount_table() -> list[Mount]:
    """Everything mounted in our namespace, in the order it was mounted."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [parse_mount(line) for line in text.splitlines()]


def parse_mount(line: str) -> Mount:
    """One line of mountinfo: fields, optional fields, a dash, then type, source, options."""
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    filesystem, source, super_options = after.split(" ", 2)
    of_filesystem = frozenset(super_options.split(","))
    return Mount(
        mountpoint=Path(_plain(fields[4])),
        filesystem=filesystem,
        source=_plain(source),
        root=_plain(fields[3]),
        options=frozenset(fields[5].split(",")) | of_filesystem,
        read_only="ro" in of_filesystem,
    )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def find_mount(mountpoint: Path) -> Mount | None:
    """What is mounted exactly there (the topmost), or None."""
    # Not Path.resolve: asking a dead FUSE mount for anything fails or waits.
    wanted = Path(os.path.realpath(mountpoint.parent)) / mountpoint.name
    found = [mount for mount in mount_table() if mount.mountpoint == wanted]
    return found[-1] if found else None


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount; does nothing when nothing is mounted there. Raises FsBusyError, ToolError."""
    deadline = time.monotonic() + BUSY_RETRY_S
    while find_mount(mountpoint) is not None:
        try:
            _umount(mountpoint, lazy=lazy)
        except ToolError as exc:
            if "busy" not in exc.output:
                raise
            # Something like a scanner that looks at every new device goes away by itself.
            if time.monotonic() > deadline:
                raise FsBusyError(str(mountpoint), holders_of(mountpoint)) from exc
            time.sleep(POLL_S)


def unmount_stale(mountpoint: Path) -> None:
    """Take away what a dead program left mounted; lazily, since nothing can be saved there."""
    if find_mount(mountpoint) is not None:
        _umount(mountpoint, lazy=True)


def _umount(mountpoint: Path, *, lazy: bool) -> None:
    if os.geteuid() == 0:
        argv = [need_program("umount", "mount"), "-n"]
        argv += ["-l"] if lazy else []
    else:
        argv = [need_program("fusermount3", "fuse3"), "-u"]
        argv += ["-z"] if lazy else []
    run_on_host([*argv, "--", str(mountpoint)], timeout_s=UNMOUNT_TIMEOUT_S)
