"""Loop devices for attachments that are files.

Owns finding, making and removing the loop device of one file, by the table in /sys, so that one
made just before the agent died is found again. Must not use direct I/O (see attach.qemu: the
FUSE export loses concurrent writes). Fails with ToolError, or HostError when the kernel doesn't
let go. Blocks; needs root.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hostagent.errors import HostError
from hostagent.filesystem.host_namespace import run_on_host
from hostagent.programs import need_program, run_program

RELEASE_TIMEOUT_S = 10.0
POLL_S = 0.02


def loops_of(file: Path) -> list[Path]:
    """The loop devices on that file."""
    wanted = os.path.realpath(file.parent) + "/" + file.name
    found = []
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            text = backing.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
        except OSError:
            continue  # released while we looked
        # A mount that is gone shows its path with a suffix.
        if text.removesuffix(" (deleted)").removesuffix("//deleted") == wanted:
            found.append(Path("/dev") / backing.parents[1].name)
    return found


def make_loop(file: Path) -> Path:
    """The loop device of that file; an existing one is taken over."""
    existing = loops_of(file)
    if existing:
        return existing[0]
    program = need_program("losetup", "util-linux")
    # An open file is a mount in use: on the host, where it is unmounted, not in a copy of ours.
    return Path(run_on_host([program, "--find", "--show", "--direct-io=off", "--", str(file)]))


def drop_loops(file: Path, *, wait: bool = True) -> None:
    """Remove the loop devices of that file and, with `wait`, return once they are gone."""
    program = need_program("losetup", "util-linux")
    for device in loops_of(file):
        run_program([program, "--detach", str(device)])
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while wait and loops_of(file):
        if time.monotonic() > deadline:
            raise HostError(
                f"{loops_of(file)[0]} is still in use",
                "look for what holds it with `lsof`, or for a scanner of new devices",
            )
        time.sleep(POLL_S)
