"""The trace of a run: one readable line an event, and a hash that tells two runs apart."""

from __future__ import annotations

import asyncio
import hashlib


class Trace:
    """Lines with virtual time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        """Add an event."""
        self.lines.append(f"{self._loop.time():10.4f}  {text}")

    def digest(self) -> str:
        """SHA-256 of everything."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
