"""TCP for the link: the real `Network`.

Owns listening sockets (asyncio sets TCP_NODELAY on every connection). Fails with OSError as the
operating system does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

DIAL_WITHIN_S = 5.0


class TcpNetwork:
    """Connections of the running event loop."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []

    async def listen(
        self, host: str, port: int, factory: Callable[[], asyncio.BaseProtocol]
    ) -> int:
        """Accept connections on one address; returns the port (of use when 0 was given)."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, host, port)
        self._servers.append(server)
        bound_port: int = server.sockets[0].getsockname()[1]
        return bound_port

    async def dial(self, host: str, port: int, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Open a connection within a few seconds."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_WITHIN_S):
                await loop.create_connection(factory, host, port)
        except TimeoutError as error:
            raise OSError(f"no answer within {DIAL_WITHIN_S:.0f} s") from error

    async def close(self) -> None:
        """Stop accepting. Connections are their protocols' to end: they are not waited for."""
        for server in self._servers:
            server.close()
