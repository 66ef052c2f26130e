"""One lab host: a user-mode Linux kernel with systemd, its disk, its console.

Owns the kernel's process, its state disk and its log. Killing the process is pulling the plug: the
host's memory is gone, page cache included, and its disk holds what was written to it. Fails with
LabError, which names the console's log.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.labs import preload
from deploy.labs.channel import Channel, Ran
from deploy.labs.layer import Layer
from deploy.labs.network import PREFIX_BITS, Network, mac
from deploy.labs.problem import HostGoneError, LabError
from deploy.labs.process import Process, call, tool
from deploy.pair import REPOSITORY

KERNEL = "linux.uml"
BOOT_WITHIN_S = 120.0
HALT_WITHIN_S = 60.0
DISK_BYTES = 16 << 30
MEMORY_MIB = 512
"""A host's kernel is told of this much, and so can have no more."""
SHM = Path("/dev/shm")  # noqa: S108
DONE = ("running", "degraded")
NOTE = "process"
"""In a host's directory: which process its kernel is."""


@dataclass
class Host:
    """A host in `directory`, which has its layer, disk and logs."""

    name: str
    address: str
    directory: Path
    network: Network
    init: Path
    package: Path | None = None
    memory_mib: int = MEMORY_MIB
    channel: Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = Channel(self.network.path, self.address, lambda: self.powered)

    @property
    def layer(self) -> Layer:
        """Its own files."""
        return Layer(self.directory / "layer")

    # ------------------------------------------------------------ power

    @property
    def console(self) -> Path:
        """What the host's kernel and journal say, of this boot."""
        return self.directory / "console.log"

    @property
    def process(self) -> Process | None:
        """The kernel's process, of this or an earlier command of the lab."""
        return Process.noted(self.directory / NOTE)

    @property
    def powered(self) -> bool:
        """Whether its kernel runs."""
        process = self.process
        return process is not None and process.alive

    @property
    def ending(self) -> str:
        """For a sentence: by which signal its kernel died, where that can be told."""
        died_by = self.process.died_by if self.process else ""
        return f" by {died_by}" if died_by else ""

    def start(self) -> None:
        """Put power on, unless it has; `wait_booted` waits for it."""
        if self.powered:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        disk = self._disk()
        tap = self.network.plug_in(self.name)
        if self.console.exists():
            self.console.replace(self.console.with_suffix(".log.1"))
        command = self.network.inside(
            *(tool("taskset"), "-c", str(self._processor())),
            *(tool(KERNEL), *self._command_line(disk, tap)),
        )
        place = str(self._memory_place())
        loaded = preload.environment(self.directory)
        Process.launch(command, self.console, self.directory / NOTE, TMPDIR=place, **loaded)

    def _command_line(self, disk: Path, tap: str) -> list[str]:
        return [
            f"mem={self.memory_mib}M",
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
            f"init={self.init}",
            f"LAYER={self.layer.root}",
            f"ADDRESS={self.address}/{PREFIX_BITS}",
            *([f"PACKAGE={self.package}"] if self.package else []),
            f"CHECKOUT={REPOSITORY}",
            f"ubd0={disk}",
            f"vec0:transport=tap,ifname={tap},depth=128,gro=1,mac={mac(self.address)}",
            *("con=null", "con0=null,fd:1", "ssl=null", "quiet", "printk.time=1"),
            *(f"uml_dir={self.directory}/mconsole", f"umid={self.name}"),
            *("systemd.show_status=0", "panic=-1"),
        ]

    def _processor(self) -> int:
        """The one processor that it runs on.

        At each system call its kernel and one of its processes hand over to each other and never
        run at once; from one processor to another that takes four times as long.
        """
        ours = sorted(os.sched_getaffinity(0))
        return ours[int(self.address.rpartition(".")[2]) % len(ours)]

    def _disk(self) -> Path:
        """The state disk, made at the first start: sparse, ext4."""
        disk = self.directory / "state.img"
        if not disk.exists():
            fresh = disk.with_suffix(".new")
            with fresh.open("wb") as output:
                output.truncate(DISK_BYTES)
            call("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", "-L", "state", str(fresh))
            fresh.replace(disk)
        return disk

    def _memory_place(self) -> Path:
        """Where the kernel's memory lies: a file that it removes at once; only used pages count."""
        needed = self.memory_mib << 20
        if SHM.is_dir() and shutil.disk_usage(SHM).free > 2 * needed:
            return SHM
        return self.directory

    def kill(self) -> None:
        """Pull the plug."""
        process = self.process
        if process is not None:
            process.kill()

    def halt(self, within_s: float = HALT_WITHIN_S) -> bool:
        """Shut it down as its operator would, and tell whether it went down by itself; the plug is
        pulled when that takes too long."""
        process = self.process
        if process is None or not process.alive:
            return True
        try:
            self.channel.run("systemctl", "poweroff", timeout_s=10, check=False)
        except (LabError, TimeoutError):
            within_s = 0  # it boots, hangs or is gone
        in_order = process.ended(within_s)
        if not in_order:
            process.kill()
        return in_order

    def wait_booted(self, within_s: float = BOOT_WITHIN_S) -> str:
        """Wait until systemd has started everything; returns `running`, or `degraded`."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if not self.powered:
                raise LabError(
                    f"{self.name} ended while it booted{self.ending}: {self._last_words()}"
                )
            try:
                state = self.channel.run("systemctl", "is-system-running", check=False).text
            except (HostGoneError, TimeoutError):
                state = ""
            if state in DONE:
                return state
            time.sleep(0.2)
        raise LabError(
            f"{self.name} did not boot within {within_s:.0f} s: {self._last_words()}",
            f"read {self.console}",
        )

    def _last_words(self) -> str:
        lines = self.console.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"

    # ------------------------------------------------------------ use

    def run(
        self, *argv: str, stdin: bytes = b"", timeout_s: float = 60.0, check: bool = True
    ) -> Ran:
        """Run a command on it; see `Channel.run`."""
        return self.channel.run(*argv, stdin=stdin, timeout_s=timeout_s, check=check)

    def shell(self, script: str, timeout_s: float = 60.0, check: bool = True) -> Ran:
        """Run a shell script on it, with `-eu`."""
        return self.channel.run("sh", "-euc", script, timeout_s=timeout_s, check=check)
