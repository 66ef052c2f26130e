"""An agent's volumes inside of a mount namespace of their own, driven by lines on its input.

Run as `inside HOST RUNTIME`: HOST is the namespace's file that stands for the host's. Each line
is a JSON list, a call's name and its arguments; each answer is one, `done` and the result, or an
error's class and words.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from hostagent.attach.attacher import LunAddress
from hostagent.attach.qemu import QemuAttacher
from hostagent.errors import HostError
from hostagent.filesystem import host_namespace
from hostagent.filesystem.mounts import find_mount
from hostagent.filesystem.volumes import HostVolumes, MountPlan

KEY = "vol"


class Inside:
    """What a line can call."""

    def __init__(self, runtime: Path) -> None:
        attacher = QemuAttacher(runtime / "attach", "iqn.2026-11.io.trilun:host.test")
        self._volumes = HostVolumes(attacher, runtime)
        self._held = -1

    def mount(
        self, address: list[Any], mountpoint: str, mount_with: Literal["kernel", "fuse2fs"]
    ) -> str:
        plan = MountPlan(LunAddress(*address), "ext4", Path(mountpoint), mount_with)
        return str(self._volumes.mount(KEY, plan))

    def unmount(self, force: bool) -> None:
        self._volumes.unmount(KEY, force=force)

    def is_there(self, path: str) -> bool:
        return find_mount(Path(path)) is not None

    def write(self, path: str, text: str) -> None:
        Path(path).write_text(text, encoding="utf-8")

    def hold(self, path: str) -> None:
        self._held = os.open(path, os.O_RDONLY)

    def let_go(self) -> None:
        os.close(self._held)


def main() -> None:
    host_namespace.HOST = Path(sys.argv[1])
    inside = Inside(Path(sys.argv[2]))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = ["done", getattr(inside, name)(*arguments)]
        except (HostError, OSError) as exc:
            answer = [type(exc).__name__, str(exc)]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
