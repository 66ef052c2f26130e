"""Connections inside one process that never run dry: what is sent is there in the next turn.

Owns the bytes on their way. Each turn of the loop hands every connection what it has room for,
once, as the event loop does with sockets that are full: so what a peer gets is counted in bytes,
and depends on nothing but the protocols at both ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

Factory = Callable[[], asyncio.BaseProtocol]


class End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.other: End
        self.protocol: asyncio.BufferedProtocol
        self.received_bytes = 0
        self.took: Callable[[], None] = lambda: None
        """Called behind each turn in which something was received."""
        self._coming = bytearray()
        self._closing = self._scheduled = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self.other._arrive(data)

    def _arrive(self, data: bytes | bytearray | memoryview) -> None:
        self._coming += data
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._closing or not self._coming:
            return
        room = cast("memoryview", self.protocol.get_buffer(-1))
        size = min(len(room), len(self._coming))
        room[:size] = self._coming[:size]
        del self._coming[:size]
        self.received_bytes += size
        self._arrive(b"")
        self.protocol.buffer_updated(size)
        self.took()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        for end in (self, self.other):
            if not end._closing:
                end._closing = True
                asyncio.get_running_loop().call_soon(end.protocol.connection_lost, None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Wires:
    """A `Network` that all controllers of a test share; a port is an address."""

    def __init__(self) -> None:
        self._listeners: dict[int, Factory] = {}

    async def listen(self, host: str, port: int, factory: Factory) -> int:
        port = port or len(self._listeners) + 1000
        self._listeners[port] = factory
        return port

    async def dial(self, host: str, port: int, factory: Factory) -> None:
        if port not in self._listeners:
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = End(), End()
        near.other, far.other = far, near
        near.protocol = cast("asyncio.BufferedProtocol", factory())
        far.protocol = cast("asyncio.BufferedProtocol", self._listeners[port]())
        far.protocol.connection_made(far)
        near.protocol.connection_made(near)

    async def close(self) -> None:
        """Others listen still."""
