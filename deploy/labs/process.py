"""Processes the lab leaves running between its commands.

Owns what tells one of them from a later process with the same pid: its start time. Each notes both
itself, before it becomes what it is for: whoever started it may be killed at once. Nothing is ever
signalled by name. Fails with LabError when a process does not start or does not end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.labs.problem import LabError
from deploy.pair import start_time

POLL_S = 0.01
STARTS_WITHIN_S = 10.0
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_NOTED = 'cat /proc/$$/stat >"$0.new" && mv "$0.new" "$0" && exec "$@"'


def tool(name: str) -> str:
    """Path of a program, /usr/sbin included."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise LabError(f"{name} is not installed", "deploy/setup tools lab")
    return found


def call(*command: str) -> str:
    """Run a program to its end; its output, or LabError with what it said."""
    result = subprocess.run(
        [tool(command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": PATH},
    )
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip()
        raise LabError(f"{' '.join(command)}: {said}")
    return result.stdout


@dataclass(frozen=True)
class Process:
    """A process that we started, the leader of its own group."""

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now."""
        return cls(pid, start_time(pid) or "")

    @classmethod
    def noted(cls, note: Path) -> Process | None:
        """The process that wrote this note of itself; None where there is none."""
        try:
            stat = note.read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        return cls(int(stat.partition(" ")[0]), stat.rpartition(")")[2].split()[19])

    @classmethod
    def launch(cls, command: list[str], output: Path, note: Path, **environment: str) -> Process:
        """Start one in a session of its own, and wait for its note; both its outputs go to a fresh
        file."""
        note.unlink(missing_ok=True)
        with output.open("wb") as log:
            child = subprocess.Popen(
                [tool("sh"), "-c", _NOTED, str(note), tool(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": PATH, **environment},
                start_new_session=True,
            )
        child.returncode = 0  # it may outlive us; `ended` reaps it if it doesn't
        process = cls.of(child.pid)
        deadline_s = time.monotonic() + STARTS_WITHIN_S
        while not note.exists():
            if not process.alive or time.monotonic() > deadline_s:
                process.kill()
                raise LabError(f"{command[0]} could not be started", f"look at {note.parent}")
            time.sleep(POLL_S)
        return process

    @property
    def alive(self) -> bool:
        """Whether it runs; one that is dead and not reaped does not."""
        return self.pid > 0 and start_time(self.pid) == self.began

    @property
    def died_by(self) -> str:
        """The signal that ended a child of ours whose end nobody has waited for yet, or nothing."""
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ""
        if ended is None or ended.si_code == os.CLD_EXITED:
            return ""
        return signal.Signals(ended.si_status).name

    def kill(self, within_s: float = 10.0) -> None:
        """End it and its group at once, and wait until it is gone."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        if not self.ended(within_s):
            raise LabError(f"process {self.pid} does not end", f"look at /proc/{self.pid}/stack")

    def ended(self, within_s: float) -> bool:
        """Wait for its end, and reap it if it is our child."""
        deadline_s = time.monotonic() + within_s
        while self.alive:
            if time.monotonic() > deadline_s:
                return False
            self._reap()
            time.sleep(POLL_S)
        self._reap()
        return True

    def _reap(self) -> None:
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return
