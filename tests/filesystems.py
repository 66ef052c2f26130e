"""File systems in images, mounted for a test.

Owns making and mounting them, and taking them away. Skips, by name, what can't be had here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostagent.programs import find_program

SPACE = {"ext4": 64 << 20, "xfs": 512 << 20, "btrfs": 256 << 20}


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def mounted(
    directory: Path, kind: str, *, options: str = "loop", tune: tuple[str, ...] = ()
) -> Iterator[tuple[Path, Path]]:
    """A file system of that kind: its image, and where it is mounted."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices)")
    program = find_program(f"mkfs.{kind}")
    if program is None:
        pytest.skip(f"needs 'mkfs.{kind}'")
    image, mountpoint = directory / "image", directory / "mnt"
    with image.open("wb") as output:
        output.truncate(SPACE[kind])
    mountpoint.mkdir()
    run(program, "-q", str(image))
    if tune:
        run(*tune, str(image))
    run("mount", "-o", options, str(image), str(mountpoint))
    try:
        yield image, mountpoint
    finally:
        run("umount", str(mountpoint))
