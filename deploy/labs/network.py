"""The lab's network: a namespace of its own with a bridge and one tap a host.

Owns the process that holds the namespace. The namespace has no name and no mount: when that
process and the hosts have ended, the kernel takes bridge, taps and addresses away. Nothing outside
the namespace is changed. Fails with LabError, which quotes `ip`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.labs.problem import LabError
from deploy.labs.process import Process, call, tool

BRIDGE = "lab"
PREFIX_BITS = 24
DESK = "10.77.0.1"
"""The machine itself in the lab's network: from here commands are given."""
UP_WITHIN_S = 5.0


def mac(address: str) -> str:
    """A host's hardware address: the same after each boot, so that nobody's table goes stale."""
    return "02:77:" + ":".join(f"{int(part):02x}" for part in address.split("."))


@dataclass(frozen=True)
class Network:
    """A network that is up."""

    holder: Process

    @classmethod
    def create(cls, note: Path) -> Network:
        """Make the namespace and its bridge; its holder is found by the note."""
        ours = _inode("/proc/self/ns/net")
        command = ["unshare", "--net", "--", "sleep", "infinity"]
        network = cls(Process.launch(command, Path(os.devnull), note))
        deadline_s = time.monotonic() + UP_WITHIN_S
        while _inode(network.path) in (ours, None):
            if not network.up or time.monotonic() > deadline_s:
                network.holder.kill()
                raise LabError("can't make a network namespace", "be root, outside of a sandbox")
            time.sleep(0.01)
        try:
            network.ip("link", "set", "lo", "up")
            network.ip("link", "add", BRIDGE, "type", "bridge")
            network.ip("address", "add", f"{DESK}/{PREFIX_BITS}", "dev", BRIDGE)
            network.ip("link", "set", BRIDGE, "up")
        except LabError:
            network.holder.kill()
            raise
        return network

    @property
    def path(self) -> str:
        """The namespace's file."""
        return f"/proc/{self.holder.pid}/ns/net"

    @property
    def up(self) -> bool:
        """Whether it is there."""
        return self.holder.alive

    def inside(self, *command: str) -> list[str]:
        """A command as it has to be called to run in the namespace."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def ip(self, *arguments: str) -> str:
        """Run `ip` in the namespace."""
        return call(*self.inside(tool("ip"), *arguments))

    def plug_in(self, host: str) -> str:
        """Make a host's tap if it isn't there, and return its name."""
        tap = f"tap-{host}"
        if f": {tap}:" not in self.ip("-o", "link", "show"):
            self.ip("tuntap", "add", tap, "mode", "tap")
            self.ip("link", "set", tap, "master", BRIDGE, "up")
        return tap

    def remove(self) -> None:
        """Take it away; hosts on it lose their wires."""
        self.holder.kill()


def _inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None
