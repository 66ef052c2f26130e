"""Service notification: the datagrams that arrive, on both kinds of sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from controller.service.notify import Notifier

pytestmark = pytest.mark.plain


@pytest.mark.parametrize("abstract", [False, True])
def test_what_arrives(tmp_path: Path, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"@trilun-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
        notifier.ready("serving\n2 volumes")
        notifier.status("busy")
        notifier.watchdog()
        notifier.reloading(12.5)
        notifier.stopping()
        received = [manager.recv(1000) for _ in range(5)]
    assert received == [
        b"READY=1\nSTATUS=serving 2 volumes",
        b"STATUS=busy",
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=12500000",
        b"STOPPING=1",
    ]


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Notifier.from_environment({}).ready()
    Notifier(str(tmp_path / "nobody")).ready()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_asked_for(environ: dict[str, str], interval_s: float | None) -> None:
    assert Notifier.from_environment(environ, pid=7).watchdog_interval_s == interval_s
