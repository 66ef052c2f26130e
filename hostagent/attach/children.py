"""Programs that run for as long as something is attached or mounted, longer than the agent.

Owns starting them in sessions of their own, the record by which a restarted agent finds them
again (pid and start time, so that a reused pid is never taken for ours), and ending them. Must
not know what they do. Fails with HostError that quotes the program's last words. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hostagent.errors import HostError, ToolError
from hostagent.records import RecordStore

POLL_S = 0.02
STOP_TIMEOUT_S = 20.0
MAX_LAST_WORDS_BYTES = 2000


class Children:
    """The long-lived programs of one kind; each under a key that is a valid name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records = RecordStore(directory)
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        key: str,
        argv: Sequence[str],
        *,
        ready: Callable[[], bool],
        timeout_s: float,
        env: dict[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        """Start a program and wait until `ready`; raises ToolError when it ends or takes too long.

        What runs under the same key, or with the very same arguments, is ended first. `through`
        is a launcher with its arguments, which becomes the program.
        """
        self.stop(key)
        for pid in _with_arguments(argv):
            _end(pid, _start_ticks(pid), STOP_TIMEOUT_S)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self._directory / f"{key}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(  # noqa: S603 - no shell, and argv is ours
                [*through, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env or {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )
        self._started[key] = child
        self._records.save(key, {"pid": child.pid, "start_ticks": _start_ticks(child.pid)})
        deadline = time.monotonic() + timeout_s
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                gone = child.returncode is not None
                self.stop(key)
                what = "ended at once" if gone else f"was not ready within {timeout_s:.0f} s"
                raise ToolError(f"{Path(argv[0]).name} {what}: {_last_words(log)}")
            time.sleep(POLL_S)

    def alive(self, key: str) -> bool:
        """Whether the program under this key runs."""
        return self._pid(key) is not None

    def stop(self, key: str, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the program (SIGTERM, in the end SIGKILL) and return once it is gone."""
        pid = self._pid(key)
        if pid is not None:
            _end(pid, _start_ticks(pid), timeout_s)
        self._reap(key, timeout_s=5.0)
        self._records.delete(key)

    def wait_gone(self, key: str, timeout_s: float) -> None:
        """Wait for a program that ends by itself; raises HostError when it doesn't."""
        deadline = time.monotonic() + timeout_s
        while self._pid(key) is not None:
            if time.monotonic() > deadline:
                raise HostError(f"the program behind '{key}' did not end in {timeout_s:.0f} s")
            time.sleep(POLL_S)
        self._reap(key, timeout_s=5.0)
        self._records.delete(key)

    def _pid(self, key: str) -> int | None:
        self._reap(key)
        record = self._records.load(key)
        if record is None:
            return None
        pid, ticks = record.get("pid"), record.get("start_ticks")
        if not isinstance(pid, int) or ticks is None or _start_ticks(pid) != ticks:
            return None
        return pid

    def _reap(self, key: str, timeout_s: float = 0.0) -> None:
        child = self._started.get(key)
        if child is None:
            return
        if timeout_s:
            child.wait(timeout_s)
        if child.poll() is not None:
            del self._started[key]


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5)); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"} and _threads(pid) <= 1:
        return None
    return int(fields[19])


def _threads(pid: int) -> int:
    """A process whose first thread has ended still holds its files while others end."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def _with_arguments(argv: Sequence[str]) -> list[int]:
    """Processes with exactly these arguments, started by an agent that died before noting them."""
    wanted = b"\0".join(os.fsencode(arg) for arg in argv) + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes() == wanted:
                    found.append(int(entry.name))
    return found


def _end(pid: int, ticks: int | None, timeout_s: float) -> None:
    for sign, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        if ticks is None or _start_ticks(pid) != ticks:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if _start_ticks(pid) != ticks:
                return
            time.sleep(POLL_S)
    raise HostError(f"process {pid} does not end", "look at what it waits for (state D)")


def _last_words(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LAST_WORDS_BYTES))
        return " ".join(file.read().decode("utf-8", "replace").split()) or "it said nothing"
