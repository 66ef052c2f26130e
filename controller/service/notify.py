"""Service notification: READY, STATUS, RELOADING, STOPPING and WATCHDOG to the service manager.

Owns the datagrams of sd_notify(3). Must not block: a full or missing socket costs a message,
never the daemon, so failures are logged and not raised. Without NOTIFY_SOCKET it does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Notifier:
    """Tells the service manager how the daemon is. `address` None makes every call a no-op."""

    def __init__(self, address: str | None, watchdog_interval_s: float | None = None) -> None:
        self._address = address
        self.watchdog_interval_s = watchdog_interval_s
        """How often `watchdog()` has to be called (half of what is asked); None: never."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int | None = None) -> Notifier:
        """A notifier as the service manager asks for it (sd_notify(3), sd_watchdog_enabled(3))."""
        interval_s: float | None = None
        usec = environ.get("WATCHDOG_USEC", "")
        meant_pid = environ.get("WATCHDOG_PID", "")
        own_pid = os.getpid() if pid is None else pid
        if usec.isdigit() and int(usec) > 0 and meant_pid in {"", str(own_pid)}:
            interval_s = int(usec) / 2_000_000
        return cls(environ.get("NOTIFY_SOCKET") or None, interval_s)

    def ready(self, status: str = "") -> None:
        """Start-up is finished."""
        self._send("READY=1" + (f"\nSTATUS={_one_line(status)}" if status else ""))

    def starting(self, text: str, within_s: float) -> None:
        """Not ready yet, and why; the next word comes within that time (EXTEND_TIMEOUT_USEC)."""
        usec = int(within_s * 1_000_000)
        self._send(f"STATUS={_one_line(text)}\nEXTEND_TIMEOUT_USEC={usec}")

    def status(self, text: str) -> None:
        """A line for `systemctl status`."""
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self, now_s: float) -> None:
        """A reload has begun; `ready` ends it. `now_s`: CLOCK_MONOTONIC (sd_notify(3))."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(now_s * 1_000_000)}")

    def stopping(self) -> None:
        """Shutting down has begun."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if self._address is None:
            return
        # '@' stands for the NUL that begins an abstract socket's name.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(state.encode(), address)
        except OSError as exc:
            _log.warning("service notification failed", error=str(exc))


def _one_line(text: str) -> str:
    return " ".join(text.split())
