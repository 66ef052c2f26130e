"""The embedded target's sockets: portals, connections, and the sessions on them.

Owns every descriptor and the event loop's part: it moves bytes between sockets and the pure
modules, in one recv and one sendmsg a batch, without a Task or Future for a command. Must not
decide anything the protocol decides. A connection that fails is closed and logged; the server
goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from targets.iscsi.buffers import LARGEST_BYTES, BufferPool
from targets.iscsi.chap import ChapCredentials
from targets.iscsi.connection import Connection
from targets.iscsi.login import LoginStatus, Rules
from targets.iscsi.negotiation import Offer
from targets.iscsi.node import (
    SessionInfo,
    TargetBusyError,
    TargetConfig,
    TargetError,
    TargetNode,
    UnknownTargetError,
)
from targets.iscsi.session import Session, discovery_node
from targets.lun import UnitAttention

_ACCEPT_BACKLOG = 64
_ACCEPTS_A_TURN = 16
_TICK_S = 1.0


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; times in seconds, sizes in bytes."""

    window: int = 128
    """Commands outstanding a session."""
    immediate: int = 8
    """Immediate requests outstanding a session."""
    pool_bytes: int = 256 << 20
    """All data buffers of all sessions."""
    connections: int = 128
    login_s: float = 10.0
    idle_s: float = 20.0
    """Silence after which an initiator is pinged; as long again, and it is gone."""
    logout_s: float = 3.0
    """How long initiators have to leave a target that is removed by force."""
    offer: Offer = field(default_factory=Offer)


class IscsiServer:
    """Targets, portals and sessions of one embedded iSCSI target."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        limits: Limits | None = None,
        discovery_chap: ChapCredentials | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.clock = clock
        self.limits = limits or Limits()
        self.log = log or logging.getLogger("targets.iscsi")
        self.pool = BufferPool(max(self.limits.pool_bytes, LARGEST_BYTES))
        self.rules = Rules(
            self._find, random_bytes, self._admits, discovery_chap, self.limits.offer
        )
        self.connections: set[Connection] = set()
        self._nodes: dict[str, TargetNode] = {}
        self._portals: list[socket.socket] = []
        self._discovery = discovery_node()
        self._tsih = 0
        self._ticker: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()

    # ------------------------------------------------------------------------------- targets

    def add_target(self, config: TargetConfig) -> None:
        """Export a target; raises `TargetError` when its name is taken."""
        if config.iqn in self._nodes or config.iqn == self._discovery.config.iqn:
            raise TargetError(f"{config.iqn} is exported already")
        self._nodes[config.iqn] = TargetNode(config)

    async def remove_target(self, iqn: str, force: bool = False) -> None:
        """Stop exporting a target; returns once no command is inside its volumes any more.

        Raises `TargetBusyError` when initiators are logged in and `force` is not set, and
        `UnknownTargetError`. Forced, they are asked to log out and dropped after a while.
        """
        node = self._node(iqn)
        if self.sessions(iqn) and not force:
            raise TargetBusyError(f"{iqn} is in use")
        node.removing = True
        await self._end(lambda: self._connections_of(node), "target removed")
        await self._until(lambda: not node.sessions)
        self._nodes.pop(iqn, None)

    async def allow(self, iqn: str, initiators: frozenset[str]) -> None:
        """Let these in from now on, or all when there are none; raises `UnknownTargetError`.

        Others that are logged in are asked to log out and dropped after a while; returns once no
        command of theirs is inside a volume any more.
        """
        node = self._node(iqn)
        node.config = replace(node.config, initiators=initiators)

        def strangers() -> list[Connection]:
            return [
                each
                for each in self._connections_of(node)
                if each.session is not None and not node.config.admits(each.session.initiator)
            ]

        await self._end(strangers, "not allowed any more")
        await self._until(lambda: all(node.config.admits(each.initiator) for each in node.sessions))

    async def _end(self, leaving: Callable[[], list[Connection]], why: str) -> None:
        """Ask for a logout, and close what is there still after a while."""
        for connection in leaving():
            connection.ask_for_logout(int(self.limits.logout_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.logout_s):
                await self._until(lambda: not leaving())
        for connection in leaving():
            connection.close(why)

    def sessions(self, iqn: str) -> list[SessionInfo]:
        """Who is logged in to a target; raises `UnknownTargetError`."""
        return [each.info() for each in self._connections_of(self._node(iqn))]

    def attention(self, iqn: str, lun: int, attention: UnitAttention) -> None:
        """Tell every nexus of a LUN once; raises `UnknownTargetError`."""
        self._node(iqn).attention(lun, attention)

    def targets(self) -> list[str]:
        """The names of all targets."""
        return sorted(self._nodes)

    def _node(self, iqn: str) -> TargetNode:
        node = self._nodes.get(iqn)
        if node is None:
            raise UnknownTargetError(f"no target {iqn}")
        return node

    def _connections_of(self, node: TargetNode) -> list[Connection]:
        return [
            each
            for each in self.connections
            if each.session is not None and each.session.node is node
        ]

    def _find(self, iqn: str) -> tuple[ChapCredentials | None, str] | None:
        node = self._nodes.get(iqn)
        if node is None or node.removing:
            return None
        return node.config.chap, node.config.alias

    def _admits(self, iqn: str, initiator: str) -> bool:
        node = self._nodes.get(iqn)
        return node is not None and node.config.admits(initiator)

    # ------------------------------------------------------------------------------- portals

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Open a portal; port 0 takes a free one. Raises `OSError` when it can't be bound."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        portal = socket.socket(family, kind, protocol)
        try:
            portal.setblocking(False)
            portal.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            portal.bind(address)
            portal.listen(_ACCEPT_BACKLOG)
        except OSError:
            portal.close()
            raise
        self._portals.append(portal)
        loop.add_reader(portal.fileno(), self._accept, loop, portal)
        if self._ticker is None:
            self._ticker = loop.call_later(_TICK_S, self._tick, loop)
        name = portal.getsockname()
        return name[0], name[1]

    def _accept(self, loop: asyncio.AbstractEventLoop, portal: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                peer, address = portal.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                    raise
                self.log.warning("no connection accepted: %s", error)
                return
            if len(self.connections) >= self.limits.connections:
                self.log.warning("too many connections, %s refused", address[0])
                peer.close()
                continue
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.add(Connection(self, loop, peer, f"{address[0]}:{address[1]}"))

    def portal_addresses(self, local: tuple[str, int]) -> list[str]:
        """Where an initiator that reached us at `local` finds the targets: there first."""
        addresses = [local]
        for portal in self._portals:
            name = portal.getsockname()
            wildcard = name[0] in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
            if not wildcard and (name[0], name[1]) != local:
                addresses.append((name[0], name[1]))
        group = self.rules.portal_group
        return [
            f"[{host}]:{port},{group}" if ":" in host else f"{host}:{port},{group}"
            for host, port in addresses
        ]

    def discover(self, local: tuple[str, int], initiator: str) -> list[tuple[str, list[str]]]:
        """All targets that an initiator may log in to, with their addresses, for SendTargets."""
        addresses = self.portal_addresses(local)
        return [
            (iqn, addresses)
            for iqn, node in self._nodes.items()
            if not node.removing and node.config.admits(initiator)
        ]

    # ------------------------------------------------------------------------------ sessions

    def place_session(
        self,
        connection: Connection,
        iqn: str | None,
        initiator: str,
        isid: bytes,
        tsih: int,
        ready: Callable[[TargetNode | None, int, LoginStatus], None],
    ) -> None:
        """Make room for a new session: end the one it reinstates (RFC 7143, 6.3.5).

        `ready` is called once no command of the old session is inside a volume.
        """
        if tsih:
            known = any(each.session and each.session.tsih == tsih for each in self.connections)
            status = LoginStatus.TOO_MANY_CONNECTIONS if known else LoginStatus.NO_SESSION
            ready(None, 0, status)
            return
        node = self._discovery if iqn is None else self._nodes.get(iqn)
        if node is None or node.removing:
            ready(None, 0, LoginStatus.NOT_FOUND)
            return
        if not node.config.admits(initiator):  # any more, since this login began
            ready(None, 0, LoginStatus.FORBIDDEN)
            return
        self._tsih = self._tsih % 0xFFFF + 1
        new = self._tsih
        # Discovery sessions share nothing, so they reinstate nothing.
        old: list[Session] = [
            each
            for each in node.sessions
            if not each.discovery and (each.initiator, each.isid) == (initiator, isid)
        ]
        for other in list(self.connections):
            if other is not connection and other.session in old:
                other.close("session reinstated")
        left = len(old)
        if not left:
            ready(node, new, LoginStatus.SUCCESS)
            return

        def quiet() -> None:
            nonlocal left
            left -= 1
            if left == 0 and node.config.admits(initiator):
                ready(node, new, LoginStatus.SUCCESS)
            elif left == 0:
                ready(None, 0, LoginStatus.FORBIDDEN)

        for each in old:
            each.tasks.when_quiet(quiet)

    def connection_closed(self, connection: Connection) -> None:
        """A connection has closed its socket."""
        self.connections.discard(connection)
        self._quiet.set()

    def session_quiet(self) -> None:
        """An ended session's last command has left its volume."""
        self._quiet.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._quiet.clear()
            await self._quiet.wait()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self.clock()
        for connection in list(self.connections):
            connection.tick(now)
        self._ticker = loop.call_later(_TICK_S, self._tick, loop)

    async def close(self) -> None:
        """Close portals and connections; returns once no command is inside a volume."""
        loop = asyncio.get_running_loop()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for portal in self._portals:
            loop.remove_reader(portal.fileno())
            portal.close()
        self._portals.clear()
        for connection in list(self.connections):
            connection.close("server closes")
        await self._until(lambda: not any(node.sessions for node in self._nodes.values()))
