"""A command on a host in front of a user: its output as it comes, his terminal for a shell.

Owns the terminal's mode while the command runs, and gives it back. Fails as `Channel` does.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.labs.channel import LOOK_EVERY_S, Call
from deploy.labs.host import Host
from deploy.labs.problem import HostGoneError

CHUNK_BYTES = 1 << 16
POWER_OFF = 75
"""Our exit code when the host's plug is pulled under a command."""


def follow(host: Host, command: list[str]) -> int:
    """Run a command, input and output passed on; its exit code, 128 + N for signal N."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    call = host.channel.start(*command, window=_window() if on_terminal else None)
    with call.link, _terminal() if on_terminal else _plain() as resized:
        try:
            code = _carry(call, resized)
        except HostGoneError as error:
            print(f"\r\nlab: {error}\r", file=sys.stderr)
            return POWER_OFF
    return code if code >= 0 else 128 - code


def _carry(call: Call, resized: list[bool]) -> int:
    link, inputs = call.link.fileno(), [0]
    while True:
        # More input is read once what was read is sent: the command sets the pace.
        sources, sending = ([link], [link]) if call.unsent else ([link, *inputs], [])
        ready, room, _ = select.select(sources, sending, [], LOOK_EVERY_S)
        if resized:
            resized.clear()
            call.resize(*_window())
        if 0 in ready:
            data = os.read(0, CHUNK_BYTES)
            if data:
                call.write(data)
            else:
                call.end_input()
                inputs.clear()
        if link in ready or room or not ready:
            code = call.step(0)
            _write_through(1, call.stdout)
            _write_through(2, call.stderr)
            if code is not None:
                return code


def _write_through(fd: int, data: bytearray) -> None:
    while data:
        del data[: os.write(fd, data)]


def _window() -> list[int]:
    columns, rows = shutil.get_terminal_size()
    return [rows, columns]


@contextmanager
def _terminal() -> Iterator[list[bool]]:
    """Keys go to the host as they are pressed. The list holds something when the size is new."""
    resized: list[bool] = []
    before = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, lambda *_: resized.append(True))
    tty.setraw(0)
    try:
        yield resized
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)


@contextmanager
def _plain() -> Iterator[list[bool]]:
    yield []
