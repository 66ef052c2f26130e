"""A real MQTT broker for tests: mosquitto as a subprocess on a free port of 127.0.0.1.

Owns the process and its files. A test that needs it takes the fixture `broker` of a
`conftest.py` that imports it from here; without mosquitto the test is skipped by name.
"""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.service.mqtt import Backoff, Broker

QUICK = Backoff(first_s=0.02, cap_s=0.1)
"""Reconnects fast enough for tests."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Mosquitto:
    """One broker; it keeps its port over `stop` and `start`, and forgets everything else."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.address = Broker("127.0.0.1", self.port)
        self._log = directory / "mosquitto.log"
        self._config = directory / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\n"
            "allow_anonymous true\n"
            "set_tcp_nodelay true\n"
            "persistence false\n"
            f"user {getpass.getuser()}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert self._process is None
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not self._accepts():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _accepts(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


def _mosquitto_there() -> bool:
    return shutil.which("mosquitto") is not None or Path("/usr/sbin/mosquitto").exists()


@pytest.fixture
def stopped_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that isn't started yet."""
    if not _mosquitto_there():
        pytest.skip("needs mosquitto (Debian package mosquitto)")
    directory = tmp_path / "broker"
    directory.mkdir()
    mosquitto = Mosquitto(directory)
    try:
        yield mosquitto
    finally:
        mosquitto.stop()


@pytest.fixture
def broker(stopped_broker: Mosquitto) -> Mosquitto:
    """A running broker."""
    stopped_broker.start()
    return stopped_broker
