"""A command on a host in front of a user: its output as it comes, his terminal for a shell.

Owns the terminal's mode while the command runs, and gives it back. Fails as `Channel` does.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.labs.channel import Call
from deploy.labs.host import Host
from deploy.labs.problem import HostGoneError

CHUNK_BYTES = 1 << 16
POWER_OFF = 75
"""Our exit code when the host's plug is pulled under a command."""


def follow(host: Host, command: list[str]) -> int:
    """Run a command, input and output passed on; its exit code, 128 + N for signal N."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    window = list(shutil.get_terminal_size())[::-1] if on_terminal else None
    call = host.channel.start(*command, window=window)
    with call.link, _raw_terminal() if on_terminal else _cooked():
        try:
            code = _carry(call, _write_through)
        except HostGoneError as error:
            print(f"\r\nlab: {error}\r", file=sys.stderr)
            return POWER_OFF
    return code if code >= 0 else 128 - code


def _carry(call: Call, put: Callable[[int, bytearray], None]) -> int:
    link, inputs = call.link.fileno(), [0]
    while True:
        ready, _, _ = select.select([link, *inputs], [], [], 0.5)
        if 0 in ready:
            data = os.read(0, CHUNK_BYTES)
            if data:
                call.write(data)
            else:
                call.end_input()
                inputs.clear()
        if link in ready or not ready:
            code = call.step(0)
            put(1, call.stdout)
            put(2, call.stderr)
            if code is not None:
                return code


def _write_through(fd: int, data: bytearray) -> None:
    while data:
        del data[: os.write(fd, data)]


@contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _cooked() -> Iterator[None]:
    yield
