"""Which portals' addresses this host has, asked of the kernel's routes and watched.

Owns one rtnetlink socket and a task. A shell. Must not touch portals. Fails with OSError at the
start; later it asks again until it gets an answer.

An address is ours when the route to it is local: that is what binding asks as well, it is right
for all of 127/8, and false while an interface that is down takes its address with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
)

from targets.lio.netlink import NetlinkTask

log = logging.getLogger(__name__)

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not bound here
_GROUPS = (
    RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
)
_LOCAL = 2
"""RTN_LOCAL, rtnetlink(7)."""
_SETTLE_S = 0.2
"""Changes come in swarms: they are looked at together."""
_RETRY_S = 1.0


def listening_error(portal: str) -> OSError | None:
    """Why nobody can listen at a portal (`host:port`, `[v6]:port`); None when one can.

    The kernel's target says EINVAL for every reason that its own socket had.
    """
    host, _, port = portal.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            trial.bind((host, int(port)))
            trial.listen(1)
        except OSError as error:
            return error
    return None


class AddressWatch(NetlinkTask):
    """Knows which of a few addresses are there, from `start` to `close`."""

    def __init__(self, hosts: Iterable[str], changed: Callable[[], None]) -> None:
        """`changed` is called when the answer is another."""
        super().__init__("portal addresses")
        self._hosts = frozenset(hosts)
        self._changed = changed
        self.present: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Ask once, and watch from then on."""
        await self._open()
        try:
            self.present = await self._ask()
        except BaseException:
            self._socket.close()
            raise
        self._begin()

    def _new_socket(self) -> AsyncIPRoute:
        return AsyncIPRoute()

    async def _bind(self) -> None:
        await self._socket.bind(groups=_GROUPS)

    async def _ask(self) -> frozenset[str]:
        found = self._hosts & WILDCARDS
        for host in sorted(self._hosts - found):
            try:
                for route in await self._socket.route("get", dst=host):
                    if route["type"] == _LOCAL:
                        found |= {host}
            except NetlinkError:  # no route at all
                continue
        return found

    async def _listen(self) -> None:
        """Wait for a change, or for a while where the last look failed; then look."""
        failed = False
        while True:
            try:
                if failed:
                    await asyncio.sleep(_RETRY_S)
                else:
                    async for _ in self._socket.get():
                        break
                    await asyncio.sleep(_SETTLE_S)
                # A new socket: what came meanwhile, or was lost, is in the answer already.
                self._socket.close()
                await self._open()
                present = await self._ask()
            except Exception as error:  # noqa: BLE001 - the library raises what it likes
                log.warning("can't watch the portals' addresses: %s", error)
                failed = True
                continue
            failed = False
            if present != self.present:
                self.present = present
                self._changed()
