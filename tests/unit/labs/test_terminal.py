"""A command on a lab host before a user, by the host's own program on the other end of a socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.pair import REPOSITORY

pytestmark = pytest.mark.plain

FOLLOW = """
import os, socket, sys
from types import SimpleNamespace
from deploy.labs.channel import Call
from deploy.labs.guest import agent
from deploy.labs.terminal import follow

def start(*argv, window=None):
    here, there = socket.socketpair()
    here.settimeout(float(os.environ["TIMEOUT_S"]))
    if os.fork() == 0:
        here.close()
        agent.answer(there)
        os._exit(0)
    there.close()
    agent.send(here, agent.REQUEST, agent.json.dumps({"argv": argv}).encode())
    return Call(argv, here, lambda: True)

sys.exit(follow(SimpleNamespace(channel=SimpleNamespace(start=start)), sys.argv[1:]))
"""
MUCH = bytes(range(256)) * (8 << 12)
"""More than the buffers on the way hold."""


def follow(
    directory: Path, *argv: str, stdin: bytes, timeout_s: float = 5
) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a command with its input from a file."""
    given = directory / "in"
    given.write_bytes(stdin)
    with given.open("rb") as source:
        ran = subprocess.run(
            [sys.executable, "-c", FOLLOW, *argv],
            cwd=REPOSITORY,
            env={"TIMEOUT_S": str(timeout_s)},
            stdin=source,
            capture_output=True,
            check=False,
            timeout=60,
        )
    return ran.returncode, ran.stdout, ran.stderr


def test_much_goes_both_ways_at_once(tmp_path: Path) -> None:
    """Its answers come in smaller pieces than its input goes there."""
    slow = "import os\nwhile d := os.read(0, 512): os.write(1, d)"
    command = (sys.executable, "-c", slow)
    assert follow(tmp_path, *command, stdin=MUCH) == (0, MUCH, b"")


def test_input_waits_for_a_command_that_takes_none_for_long(tmp_path: Path) -> None:
    """Longer than a send may take."""
    count = "import sys, time; time.sleep(1); print(len(sys.stdin.buffer.read()))"
    said = follow(tmp_path, sys.executable, "-c", count, stdin=MUCH, timeout_s=0.2)
    assert said == (0, f"{len(MUCH)}\n".encode(), b"")


def test_a_command_may_end_before_its_input_does(tmp_path: Path) -> None:
    assert follow(tmp_path, "sh", "-c", "echo enough; exit 3", stdin=MUCH) == (3, b"enough\n", b"")
