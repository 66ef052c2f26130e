"""A whole trilun on one machine: broker, two controllers and two host agents on loopback.

Owns the processes it starts, their configuration files and their directory. Everything is
stopped by its own pid, checked against its start time. Used by the quickstart, the tests and the
benchmarks. Fails with PairError, which names the log to read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = REPOSITORY / ".venv" / "bin"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
STOP_WITHIN_S = 40.0
DATA_SET = "demo"


class PairError(Exception):
    """Something did not start, answer or stop."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_time(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; tells it from a later one with its pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


@dataclass
class LocalPair:
    """Configured by its fields, started by `start` and `start_agents`."""

    directory: Path
    filesystem: str = "ext4"
    mount_with: str = "auto"
    pids: dict[str, tuple[int, str]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    """Those of the processes that this very object started, by pid: they are ours to reap."""

    @property
    def mountpoint(self) -> Path:
        """Where host 1 has the first volume."""
        return self.directory / "host1-files"

    @property
    def broker(self) -> str:
        """Address of the broker."""
        return f"127.0.0.1:{self.ports['broker']}"

    # ------------------------------------------------------------ files

    def configure(self) -> None:
        """Write every configuration file."""
        names = ("broker", "target1", "target2", "link1", "link2")
        self.ports = {name: free_port() for name in names}
        for name in ("conf", "log", "state"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.mountpoint.mkdir(exist_ok=True)
        self._write(
            "mosquitto.conf",
            f"listener {self.ports['broker']} 127.0.0.1\nallow_anonymous true\n"
            "set_tcp_nodelay true\npersistence false\n"
            + ("user root\n" if os.geteuid() == 0 else ""),
        )
        for number, other in ((1, 2), (2, 1)):
            self._write(f"ctl{number}.toml", self._controller(number, other))
            self._write(f"host{number}.toml", self._agent(number))

    def _write(self, name: str, text: str) -> None:
        (self.directory / "conf" / name).write_text(text, encoding="utf-8")

    def _controller(self, number: int, other: int) -> str:
        return (
            f'node = "ctl{number}"\n'
            f'state_dir = "{self.directory}/state/ctl{number}"\n'
            f"[broker]\nport = {self.ports['broker']}\n"
            f'[target]\nlisten = ["127.0.0.1:{self.ports[f"target{number}"]}"]\n'
            f'[link]\nlisten = "127.0.0.1:{self.ports[f"link{number}"]}"\n'
            f'[[peer]]\nname = "ctl{other}"\n'
            f'address = "127.0.0.1:{self.ports[f"link{other}"]}"\n'
        )

    def _agent(self, number: int) -> str:
        return (
            f'node = "host{number}"\n'
            f'state_dir = "{self.directory}/state/host{number}"\n'
            f'runtime_dir = "{self.directory}/run/host{number}"\n'
            f"[broker]\nport = {self.ports['broker']}\n"
            f'[[data_set]]\nname = "{DATA_SET}"\npart = "host{number}"\n'
            f'filesystem = "{self.filesystem}"\nmount_with = "{self.mount_with}"\n'
            'primary = "ctl1"\nfirst = "first"\nremote_pair = "demo-remote"\n'
            'secondary = "ctl2"\nsecond = "second"\nlocal_pair = "demo-local"\nthird = "third"\n'
            f'host1 = "host1"\nhost2 = "host2"\nmountpoint = "{self.mountpoint}"\n'
        )

    # ------------------------------------------------------------ processes

    def launch(self, name: str, *command: str) -> None:
        """Start one process with its own log."""
        log = self.directory / "log" / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": PATH},
                start_new_session=True,
            )
        self.children[process.pid] = process
        self.pids[name] = (process.pid, start_time(process.pid) or "")
        self._remember()

    def launch_broker(self) -> None:
        """Start mosquitto."""
        self.launch("broker", self.tool("mosquitto"), "-c", self._conf("mosquitto.conf"))

    def launch_controller(self, number: int) -> None:
        """Start a controller."""
        self.launch(
            f"ctl{number}", str(BIN / "trilund"), "--config", self._conf(f"ctl{number}.toml")
        )

    def launch_agent(self, number: int) -> None:
        """Start a host agent."""
        self.launch(
            f"host{number}", str(BIN / "trilun-agent"), "--config", self._conf(f"host{number}.toml")
        )

    def _conf(self, name: str) -> str:
        return str(self.directory / "conf" / name)

    @staticmethod
    def tool(name: str) -> str:
        """Path of a program, /usr/sbin included."""
        found = shutil.which(name, path=PATH)
        if found is None:
            raise PairError(f"{name} is not installed")
        return found

    def alive(self, name: str) -> bool:
        """Whether a process this object started still runs."""
        pid, began = self.pids.get(name, (0, ""))
        return pid > 0 and start_time(pid) == began

    def wait_online(self, *nodes: str, within_s: float = 30.0) -> None:
        """Wait until nodes are on the broker; PairError names one that died or is missing."""
        deadline_s = time.monotonic() + within_s
        while True:
            for node in nodes:
                if not self.alive(node):
                    raise PairError(f"{node} has ended: {self.directory}/log/{node}.log says why")
            status = self.trilun("status", check=False)
            online = {entry["node"] for entry in status.get("nodes", []) if entry.get("online")}
            if online >= set(nodes):
                return
            if time.monotonic() > deadline_s:
                missing = ", ".join(sorted(set(nodes) - online))
                raise PairError(f"{missing} did not come up within {within_s:.0f} s")
            time.sleep(0.1)

    def trilun(self, *arguments: str, check: bool = True) -> dict[str, Any]:
        """Run the operator's command with --json; PairError when it fails."""
        command = [str(BIN / "trilun"), "--broker", self.broker, "--json", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and result.returncode != 0:
            said = result.stdout.strip() or result.stderr.strip()
            raise PairError(f"trilun {' '.join(arguments)}: exit {result.returncode}: {said}")
        try:
            answer: dict[str, Any] = json.loads(result.stdout)
        except ValueError:
            return {}
        return answer

    def stop(self, *names: str) -> None:
        """End processes by their own pids, agents first; all of them when none is named."""
        order = ("host2", "host1", "ctl2", "ctl1", "broker")
        for name in names or [name for name in order if name in self.pids]:
            self._stop_one(name)
        self._remember()

    def _stop_one(self, name: str) -> None:
        pid, began = self.pids.pop(name, (0, ""))
        if pid == 0:
            return
        deadline_s = time.monotonic() + STOP_WITHIN_S
        signum = signal.SIGTERM
        while start_time(pid) == began:
            os.kill(pid, signum)
            while start_time(pid) == began and time.monotonic() < deadline_s:
                self._reap(pid)
                time.sleep(0.02)
            if signum == signal.SIGKILL:
                break
            deadline_s += 5
            signum = signal.SIGKILL
        self._gone(pid)

    def kill(self, name: str) -> None:
        """Kill a process as a crash would."""
        pid, began = self.pids.pop(name)
        if start_time(pid) == began:
            os.kill(pid, signal.SIGKILL)
        while start_time(pid) == began:
            self._reap(pid)
            time.sleep(0.01)
        self._gone(pid)

    def _gone(self, pid: int) -> None:
        """A process is a zombie while its threads end, and holds its files and ports till then."""
        child = self.children.pop(pid, None)
        if child is not None:
            child.wait()

    def _reap(self, pid: int) -> None:
        child = self.children.get(pid)
        if child is not None and child.poll() is not None:
            del self.children[pid]

    # ------------------------------------------------------------ memory of itself

    def _remember(self) -> None:
        text = json.dumps(
            {
                "pids": self.pids,
                "ports": self.ports,
                "filesystem": self.filesystem,
                "mount_with": self.mount_with,
            }
        )
        (self.directory / "pair.json").write_text(text, encoding="utf-8")

    @classmethod
    def recall(cls, directory: Path) -> LocalPair:
        """The pair that was left running in a directory."""
        try:
            saved = json.loads((directory / "pair.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PairError(f"there is no trilun in {directory}") from error
        pids = {name: (int(pid), str(began)) for name, (pid, began) in saved["pids"].items()}
        return cls(directory, saved["filesystem"], saved["mount_with"], pids, saved["ports"])

    def image(self, volume: str) -> Path:
        """The file that holds a volume's data."""
        number = 1 if volume == "first" else 2
        info = self.trilun("volume", "show", f"ctl{number}/{volume}")
        naa = str(info["naa"])
        found = list((self.directory / "state" / f"ctl{number}" / "volumes").glob("*.volume"))
        for path in found:
            if path.stem[2:] == naa[2:]:
                return path
        raise PairError(f"no file of volume {volume}")
