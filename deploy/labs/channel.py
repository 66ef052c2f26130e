"""Commands on a lab host: the caller's side of `guest/agent.py`.

Owns one connection a command. The socket is made inside the lab's network namespace by a thread
that enters it, so the rest of the process stays where it is. Fails with LabError when the command
can't be started, HostGoneError when the host ends meanwhile, CommandError for a bad exit code that
was not allowed, TimeoutError when it takes too long.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deploy.labs.guest import agent
from deploy.labs.problem import CommandError, HostGoneError, LabError

PORT = 7
CONNECT_WITHIN_S = 5.0
LOOK_EVERY_S = 0.5
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the white space around it."""
        return self.stdout.decode(errors="replace").strip()


def socket_inside(namespace: int) -> socket.socket:
    """A TCP socket of another network namespace, given by the descriptor of its file."""
    made: list[socket.socket] = []
    failed: list[int] = []

    def make() -> None:
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            failed.append(ctypes.get_errno())
            return
        made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise LabError(f"can't enter the lab's network: {os.strerror(failed[0])}", "be root")
    return made[0]


@dataclass
class Channel:
    """The way to one host: its network namespace's file, its address, and whether it has power."""

    namespace: str
    address: str
    powered: Callable[[], bool]
    port: int = field(default=PORT)

    def connect(self, within_s: float = CONNECT_WITHIN_S) -> socket.socket:
        """A connection to the agent; OSError when there is none within the time."""
        try:
            namespace = os.open(self.namespace, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise HostGoneError("the lab's network is gone") from error
        try:
            link = socket_inside(namespace)
        finally:
            os.close(namespace)
        try:
            link.settimeout(within_s)
            link.connect((self.address, self.port))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            link.close()
            raise
        return link

    def start(self, *argv: str, window: list[int] | None = None, **more: Any) -> Call:
        """Start a command; `env` and `cwd` may be named."""
        try:
            link = self.connect()
        except OSError as error:
            raise HostGoneError(f"{self.address} does not answer: {error}") from error
        request = {"argv": argv, "window": window, **more}
        agent.send(link, agent.REQUEST, json.dumps(request).encode())
        return Call(argv, link, self.powered)

    def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        check: bool = True,
        **more: Any,
    ) -> Ran:
        """Run a command to its end; CommandError quotes what it said when it fails."""
        call = self.start(*argv, **more)
        call.write(stdin)
        call.end_input()
        with call.link:
            ran = call.wait(timeout_s)
        if check and ran.code != 0:
            said = (ran.stderr.decode(errors="replace").strip() or ran.text)[-2000:]
            raise CommandError(f"{' '.join(argv)}: exit {ran.code}: {said}")
        return ran


@dataclass
class Call:
    """A command that runs. Closing `link` kills it.

    What it is given waits here until `step` has sent it: a command that answers while it is fed, or
    takes nothing for a while, would hold up whoever waits for room instead of reading.
    """

    argv: tuple[str, ...]
    link: socket.socket
    powered: Callable[[], bool]
    unsent: bytearray = field(default_factory=bytearray)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        """Give it input."""
        for begin in range(0, len(data), agent.CHUNK_BYTES):
            self.unsent += agent.frame(agent.INPUT, data[begin : begin + agent.CHUNK_BYTES])

    def end_input(self) -> None:
        """Close its input."""
        self.unsent += agent.frame(agent.END, b"")

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal's new size."""
        self.unsent += agent.frame(agent.WINDOW, json.dumps([rows, columns]).encode())

    def hang_up(self) -> None:
        """End it, from any thread; whoever waits for it gets HostGoneError."""
        try:
            self.link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end was first

    def wait(self, timeout_s: float) -> Ran:
        """Wait for its end."""
        deadline_s = time.monotonic() + timeout_s
        while (
            code := self.step(min(LOOK_EVERY_S, max(0.0, deadline_s - time.monotonic())))
        ) is None:
            if time.monotonic() >= deadline_s:
                self.link.close()
                raise TimeoutError(f"{' '.join(self.argv)} took longer than {timeout_s:.0f} s")
        return Ran(code, bytes(self.stdout), bytes(self.stderr))

    def step(self, timeout_s: float) -> int | None:
        """Send what there is room for, take one frame if there is one; the exit code when it was
        the last."""
        sending = [self.link] if self.unsent else []
        ready, room, _ = select.select([self.link], sending, [], timeout_s)
        if room:
            self._send()
        if not ready:
            if not room and not self.powered():
                raise HostGoneError(f"the host lost its power while it ran {' '.join(self.argv)}")
            return None
        try:
            kind, payload = agent.receive(self.link)
        except agent.GoneError as error:
            raise HostGoneError(f"the host was gone while it ran {' '.join(self.argv)}") from error
        if kind == agent.OUTPUT:
            self.stdout += payload
        elif kind == agent.ERROR:
            self.stderr += payload
        elif kind == agent.FAILED:
            raise LabError(f"{self.argv[0]} could not be started: {payload.decode()}")
        elif kind == agent.EXIT:
            return int(payload)
        return None

    def _send(self) -> None:
        try:
            del self.unsent[: self.link.send(self.unsent[: agent.CHUNK_BYTES])]
        except OSError:
            self.unsent.clear()  # it has ended: what it said last tells how
