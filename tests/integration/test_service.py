"""Both daemons as a service manager sees them: ready, reloaded, stopped, and never hung up on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.brokers import free_port

LIVE = '[log]\nlevel = "debug"\n'


@dataclass
class Service:
    """A daemon, its file, and the service manager's end of the notification socket."""

    config: Path
    text: str
    log: Path
    process: subprocess.Popen[bytes]
    manager: socket.socket

    def wait_for(self, wanted: str) -> str:
        """The next notification that begins with this; others are passed over."""
        while not (message := self.manager.recv(4096).decode()).startswith(wanted):
            pass
        return message

    def reload(self, text: str) -> str:
        """Have the file read again; returns what was logged meanwhile."""
        before = self.log.stat().st_size
        self.config.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("RELOADING=1\nMONOTONIC_USEC=")
        self.wait_for("READY=1\nSTATUS=")
        return self.log.read_bytes()[before:].decode()


def controller(tmp_path: Path) -> str:
    return (
        f'node = "ctl1"\nstate_dir = "{tmp_path}/state"\n[broker]\nport = {free_port()}\n'
        '[target]\nlisten = ["127.0.0.1:0"]\n[link]\nlisten = "127.0.0.1:0"\n'
    )


def agent(tmp_path: Path) -> str:
    return (
        f'node = "host1"\nstate_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n'
        f'[broker]\nport = {free_port()}\n[attach]\nkind = "open-iscsi"\n'
    )


@pytest.fixture(params=["controller", "hostagent"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    text = {"controller": controller, "hostagent": agent}[request.param](tmp_path)
    config, log, address = tmp_path / "config.toml", tmp_path / "log", tmp_path / "notify"
    config.write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("wb") as output:
        manager.bind(str(address))
        manager.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", f"{request.param}.daemon", "--config", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "2000000"},
            stderr=output,
        )
        with process:
            yield Service(config, text, log, process, manager)
            process.kill()


def test_through_its_life(service: Service) -> None:
    assert service.wait_for("READY=1").partition("STATUS=")[2]
    service.wait_for("WATCHDOG=1")
    service.wait_for("WATCHDOG=1")

    said = service.reload(service.text + LIVE)
    assert "taken_over=['log.level']" in said
    assert "restart" not in said

    said = service.reload(service.text.replace("[broker]\n", '[broker]\nhost = "::1"\n') + LIVE)
    assert "a restart is needed" in said
    assert "broker.host" in said

    said = service.reload("nonsense = 1\n" + service.text)
    assert "nonsense: is not known" in said
    assert service.process.poll() is None

    service.process.terminate()
    service.wait_for("STOPPING=1")
    assert service.process.wait(30) == 0


def test_a_reload_before_its_time_ends_nothing(service: Service) -> None:
    while not service.log.stat().st_size:
        assert service.process.poll() is None
    for _ in range(20):
        service.process.send_signal(signal.SIGHUP)
    service.wait_for("READY=1")
    assert service.process.poll() is None


def test_wrong_configurations_have_a_code_of_their_own(tmp_path: Path) -> None:
    """RestartPreventExitStatus=2 in the units."""
    config = tmp_path / "config.toml"
    config.write_text("nonsense = 1\n")
    for package in ("controller", "hostagent"):
        command = [sys.executable, "-m", f"{package}.daemon", "--config", str(config)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert "nonsense" in ran.stderr


def test_credentials_are_not_asked_for_outside_of_the_service(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('node = "a"\n[broker]\npassword_file = "credential:mqtt"\n')
    command = [sys.executable, "-m", "controller.daemon", "--config", str(config)]
    environ = {key: value for key, value in os.environ.items() if "CREDENTIALS" not in key}
    ran = subprocess.run(
        [*command, "--check-config"], capture_output=True, text=True, check=False, env=environ
    )
    assert ran.returncode == 0
    assert ran.stderr.startswith("not checked: credential:mqtt: ")
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert ran.returncode == 2
