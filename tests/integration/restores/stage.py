"""A small trilun of real parts with one backup, on which restores are tried."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.pair import BIN, DATA_SET, LocalPair

MIB = 1 << 20
SIZE = 64 * MIB
PROGRAMS = {
    "mosquitto": "mosquitto",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
}
BINARY = bytes(range(256)) * 4000
"""Every byte there is; a little less than 1 MiB."""


class Stage:
    """Broker, controllers, agents, and the files of host 1."""

    def __init__(self, pair: LocalPair) -> None:
        self.pair = pair
        self.files = pair.mountpoint

    def raise_up(self) -> None:
        """Everything started, in PAIR, and one backup of the files taken."""
        pair = self.pair
        pair.configure()
        pair.launch_broker()
        pair.launch_controller(1)
        pair.launch_controller(2)
        pair.wait_online("ctl1", "ctl2")
        for volume in ("ctl1/first", "ctl2/second", "ctl2/third"):
            pair.trilun("volume", "create", volume, str(SIZE))
        blank = pair.directory / "blank.img"
        with blank.open("wb") as output:
            output.truncate(SIZE)
        run(pair.tool("mkfs.ext4"), "-q", "-F", "-E", "lazy_itable_init=0", str(blank))
        info = pair.trilun("volume", "show", "ctl1/first")
        url = f"iscsi://{info['portals'][0]}/{info['target']}/{info['lun']}"
        run(pair.tool("qemu-img"), "convert", "-n", "-f", "raw", "-O", "raw", str(blank), url)
        pair.trilun("pair", "create", "demo-remote", "ctl1/first", "ctl2/second")
        pair.trilun("pair", "wait", "demo-remote", "PAIR")
        pair.trilun("pair", "create", "demo-local", "ctl2/second", "ctl2/third")
        pair.trilun("pair", "wait", "demo-local", "PAIR")
        pair.launch_agent(1)
        pair.launch_agent(2)
        pair.wait_online("host1", "host2")
        until(lambda: os.path.ismount(self.files), "host 1 to mount")
        self._fill()
        pair.trilun("backup", DATA_SET, "--label", "noon")

    def _fill(self) -> None:
        for name, content in {
            "d/a.dat": b"a" * 5000,
            "d/b.dat": b"b" * 6000,
            "d/note.txt": b"a note\n",
            "d/deep/c.dat": b"c" * 100,
            "binary": BINARY,
            "large": os.urandom(12 * MIB),
            "same": b"same",
        }.items():
            path = self.files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (self.files / "link").symlink_to("/etc/passwd")

    def trilun(self, *arguments: str, expect: int = 0) -> str:
        """What the command prints for people."""
        result = self.start(*arguments)
        out, err = result.communicate(timeout=120)
        assert result.returncode == expect, (out + err).decode("utf-8", "replace")
        return out.decode("utf-8", "replace") if expect == 0 else (out + err).decode()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command, left running."""
        # A test run in the background has SIGINT ignored, and its children inherit that.
        command = ["env", "--default-signal=INT", str(BIN / "trilun"), "--broker", self.pair.broker]
        command += arguments
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def views(self) -> list[str]:
        """The views that are open."""
        volumes = self.pair.trilun("volume", "list")["volumes"]
        return [str(volume["name"]) for volume in volumes if volume["view_of"]]

    def state(self) -> str:
        """The remote pair's."""
        pair: dict[str, Any] = self.pair.trilun("pair", "show", "demo-remote")["pair"]
        return str(pair["state"])

    def digest(self, volume: str) -> str:
        """SHA-256 of a volume's image."""
        with self.pair.image(volume).open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()

    def text(self, name: str) -> str:
        """A file of host 1's, which may just be mounted again."""
        until(lambda: os.path.ismount(self.files), "host 1 to mount")
        return Path(self.files / name).read_text()


def run(*command: str) -> None:
    """Run a program."""
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.05)
