"""The host's mount namespace, for what everybody on the host has to see.

Owns the question whether our mounts reach the host, and the way there for the few programs that
mount, unmount or serve a mount, or belong to the host: in a mount namespace of our own, as a
sandbox of the service manager makes one, a mount stays inside. What is mounted on the host appears
inside as well, because systemd makes our namespace a slave (mount_namespaces(7)), so everything
else is done inside. Must not be used for anything that works inside. Fails with HostError. Blocks.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostagent.errors import HostError, ToolError
from hostagent.programs import DEFAULT_TIMEOUT_S, need_program, run_program

HOST = Path("/proc/1/ns/mnt")
"""The namespace that mounts have to reach: the service manager's."""
OURS = Path("/proc/self/ns/mnt")
TABLE = Path("/proc/self/mountinfo")


def entrance() -> list[str]:
    """What to put before a program's arguments to run it in the host's mount namespace.

    Empty when we are there already, and when we aren't root: then what we mount is ours alone.
    """
    if os.geteuid() != 0 or not _is_inside():
        return []
    return [need_program("nsenter", "util-linux"), f"--mount={HOST}", "--"]


def run_on_host(
    argv: list[str],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    ok: frozenset[int] = frozenset({0}),
) -> str:
    """`run_program` in the host's mount namespace. Raises ToolError, or HostError: no way there."""
    try:
        return run_program(argv, timeout_s=timeout_s, ok=ok, through=entrance())
    except ToolError as exc:
        if not exc.output.startswith("nsenter:"):
            raise
        raise HostError(
            f"what this service mounts would not reach the host: {exc.output}",
            "take out the drop-in that takes capabilities or RestrictNamespaces=mnt from its unit",
        ) from exc


def make_mountpoint(path: Path) -> None:
    """Make a folder that is the same one here and on the host; raises HostError, OSError."""
    if not entrance():
        path.mkdir(parents=True, exist_ok=True)
        return
    run_on_host([need_program("mkdir", "coreutils"), "-p", "--", str(path)])
    there = run_on_host([need_program("stat", "coreutils"), "-L", "-c", "%d:%i", "--", str(path)])
    try:
        status = path.stat()
    except FileNotFoundError:
        here = ""
    else:
        here = f"{status.st_dev}:{status.st_ino}"
    if here != there:
        raise HostError(
            f"{path} is not the host's here: the service has a folder of its own in its place",
            "choose a mountpoint outside of /tmp and /var/tmp",
        )


def _is_inside() -> bool:
    """Whether our mount namespace isn't the host's."""
    try:
        return OURS.readlink() != HOST.readlink()
    except PermissionError:
        # Looking at process 1 takes its own rights or CAP_SYS_PTRACE. A root that receives
        # mounts from elsewhere tells as much: the way out may fail then, but nothing gets lost.
        return _root_is_slave(TABLE.read_text(encoding="utf-8", errors="surrogateescape"))


def _root_is_slave(mountinfo: str) -> bool:
    """Whether `/` has a master: optional fields of mountinfo, proc(5)."""
    slave = False
    for line in mountinfo.splitlines():
        fields = line.partition(" - ")[0].split(" ")
        if fields[4] == "/":
            # The last one lies on top.
            slave = any(field.startswith("master:") for field in fields[6:])
    return slave
