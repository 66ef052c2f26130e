"""Runs commands inside a lab host; started by systemd there with the system's own Python.

Owns one TCP port of the host and a child a connection. Stands alone: standard library only, and
nothing of ours is imported, since it has to work when what we test does not. There is no
authentication: the only network it is on is the lab's. A command whose caller is gone is killed
with its session. Frames are one byte of kind, four of length (big endian), payload.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
from typing import Any

HEAD = struct.Struct(">cI")
MAX_FRAME_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
REQUEST, INPUT, END, WINDOW = b"R", b"I", b"E", b"W"
OUTPUT, ERROR, EXIT, FAILED = b"O", b"e", b"X", b"F"


class GoneError(Exception):
    """The caller hung up."""


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(kind, len(payload)) + payload


def send(link: socket.socket, kind: bytes, payload: bytes) -> None:
    """One frame; GoneError when nobody takes it."""
    try:
        link.sendall(frame(kind, payload))
    except OSError as error:
        raise GoneError from error


def receive(link: socket.socket) -> tuple[bytes, bytes]:
    """One frame; GoneError at the end of the stream or for one that is too long."""
    kind, length = HEAD.unpack(exactly(link, HEAD.size))
    if length > MAX_FRAME_BYTES:
        raise GoneError
    return kind, exactly(link, length)


def exactly(link: socket.socket, count: int) -> bytes:
    """That many bytes."""
    data = bytearray()
    while len(data) < count:
        try:
            part = link.recv(count - len(data))
        except OSError as error:
            raise GoneError from error
        if not part:
            raise GoneError
        data += part
    return bytes(data)


class Command:
    """One command with its pipes or its terminal."""

    def __init__(self, link: socket.socket, request: dict[str, Any]) -> None:
        self.link = link
        self.backlog = bytearray()
        self.input_ended = False
        start = start_on_terminal if request.get("window") else start_on_pipes
        self.pid, self.input, self.outputs = start(request)
        self.terminal = self.input if request.get("window") else -1
        self.ended = os.pidfd_open(self.pid)
        os.set_blocking(self.input, False)

    def serve(self) -> None:
        """Carry bytes both ways until the command has ended, then tell its exit code."""
        with selectors.DefaultSelector() as selector:
            for fd in (self.link.fileno(), self.ended, *self.outputs):
                selector.register(fd, selectors.EVENT_READ)
            while self.pid:
                self._ask_for_room(selector)
                for key, _ in selector.select():
                    self._handle(selector, key.fd)

    def _handle(self, selector: selectors.BaseSelector, fd: int) -> None:
        if fd in self.outputs:
            self._carry_output(selector, fd)
        elif fd == self.link.fileno():
            self._take(*receive(self.link))
        elif fd == self.input:
            self._feed()
        elif fd == self.ended:
            self._finish(selector)

    def _finish(self, selector: selectors.BaseSelector) -> None:
        """Send on what it wrote to its end, and its exit code.

        What it left running may hold its pipes; nobody waits for that.
        """
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        while ready := [key.fd for key, _ in selector.select(0) if key.fd in self.outputs]:
            for fd in ready:
                self._carry_output(selector, fd)
        send(self.link, EXIT, str(os.waitstatus_to_exitcode(status)).encode())

    def _carry_output(self, selector: selectors.BaseSelector, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal ends with EIO
        if data:
            send(self.link, self.outputs[fd], data)
        else:
            selector.unregister(fd)
            del self.outputs[fd]

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == INPUT:
            self.backlog += payload
        elif kind == END:
            self.input_ended = True
            self._feed()
        elif kind == WINDOW and self.terminal >= 0:
            set_window(self.terminal, json.loads(payload))

    def _ask_for_room(self, selector: selectors.BaseSelector) -> None:
        """Wait for room in the command's input while there is some to hand on, and read more
        only once that is gone."""
        waiting = self.input in selector.get_map()
        if self.backlog and not waiting:
            selector.register(self.input, selectors.EVENT_WRITE)
            selector.unregister(self.link.fileno())
        elif not self.backlog and waiting:
            selector.unregister(self.input)
            selector.register(self.link.fileno(), selectors.EVENT_READ)

    def _feed(self) -> None:
        """Hand on what the command takes; it may close its input whenever it likes."""
        try:
            while self.backlog:
                del self.backlog[: os.write(self.input, self.backlog[:CHUNK_BYTES])]
        except BlockingIOError:
            return
        except OSError:
            self.backlog.clear()
        if self.input_ended and self.terminal < 0:
            # Its number must not be another's while the selector may know it.
            with open(os.devnull, "wb") as nothing:  # noqa: PTH123
                os.dup2(nothing.fileno(), self.input)

    def kill(self) -> None:
        """End the command and all of its process group."""
        if self.pid:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def start_on_pipes(request: dict[str, Any]) -> tuple[int, int, dict[int, bytes]]:
    """Start a command in a session of its own: pid, its input, its outputs."""
    child = subprocess.Popen(
        request["argv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **request.get("env", {})},
        cwd=request.get("cwd") or "/",
        start_new_session=True,
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    child.returncode = 0  # `Command` reaps it
    pipes = [os.dup(pipe.fileno()) for pipe in (child.stdin, child.stdout, child.stderr)]
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
    return child.pid, pipes[0], {pipes[1]: OUTPUT, pipes[2]: ERROR}


def start_on_terminal(request: dict[str, Any]) -> tuple[int, int, dict[int, bytes]]:
    """Start a command on a terminal of its own: pid, its input, its outputs."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(request.get("cwd") or "/")
            os.execvpe(  # noqa: S606
                request["argv"][0], request["argv"], {**os.environ, **request.get("env", {})}
            )
        except OSError as error:
            os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
            os._exit(127)
    set_window(terminal, request["window"])
    return pid, os.dup(terminal), {terminal: OUTPUT}


def set_window(terminal: int, window: list[int]) -> None:
    """Rows and columns."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", window[0], window[1], 0, 0))


def answer(link: socket.socket) -> None:
    """Serve one connection."""
    kind, payload = receive(link)
    if kind != REQUEST:
        raise GoneError
    try:
        command = Command(link, json.loads(payload))
    except (OSError, ValueError, KeyError) as error:
        send(link, FAILED, str(error).encode())
        return
    try:
        command.serve()
    finally:
        command.kill()


def main() -> None:
    """Accept for ever; one child a connection."""
    listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=64)  # noqa: S104
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        link, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                answer(link)
            except GoneError:
                pass
            finally:
                os._exit(0)
        link.close()


if __name__ == "__main__":
    main()
