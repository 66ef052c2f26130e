"""The link's shell: TCP connections to the peers, one live stream for each.

Owns sockets, hellos, keepalive and reconnecting. Must not know pairs: it tells its `LinkEvents`
when a peer's stream opens and closes. A connection that breaks the protocol, is silent for
`DEAD_AFTER_S`, or turns out to be another node than configured is closed with a reason that an
operator can read; it is tried again for ever, with a pause that grows to `RETRY_MAX_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from pydantic import ValidationError

from controller.link.channel import Control, Receiver
from controller.link.frames import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    VERSION,
    FrameError,
    Kind,
    encode_header,
    parse,
)
from controller.link.hello import Hello, check_hello
from controller.link.stream import Stream
from controller.pair.exchange import ExchangeError

log = logging.getLogger(__name__)

PING_EVERY_S = 1.0
DEAD_AFTER_S = 5.0
HELLO_WITHIN_S = 5.0
RETRY_MIN_S = 0.2
RETRY_MAX_S = 5.0
RECEIVE_BUFFER_BYTES = 2 * (HEADER_BYTES + MAX_PAYLOAD_BYTES)
TURN_BYTES = 512 << 10
"""Taken from one connection before the loop looks at the next: what is fair between peers."""
JOIN_BELOW_BYTES = 64 << 10
"""A payload up to this size is joined with its header: one system call is dearer than the copy."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A configured peer."""

    name: str
    host: str
    port: int


class LinkEvents(Protocol):
    """Who wants to know about streams."""

    def find(self, pair: bytes, peer: str) -> Receiver | None:
        """The receiver of a pair's frames from that peer."""

    def on_up(self, peer: str, stream: Stream) -> None:
        """A new epoch with the peer begins."""

    def on_down(self, peer: str, reason: str) -> None:
        """The epoch has ended; its stream is closed already."""

    def on_node_control(self, peer: str, message: Control) -> None:
        """A message that concerns no pair."""

    def known_id(self, peer: str) -> str | None:
        """The id this peer had when it was first met."""

    def learn_id(self, peer: str, node_id: str) -> None:
        """The peer is met for the first time."""


class Network(Protocol):
    """Where connections come from: TCP, or a simulator's stand-in."""

    async def listen(
        self, host: str, port: int, factory: Callable[[], asyncio.BaseProtocol]
    ) -> int:
        """Accept connections; returns the port."""

    async def dial(self, host: str, port: int, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Open a connection; OSError when that fails."""

    async def close(self) -> None:
        """Stop accepting."""


class Connection(asyncio.BufferedProtocol):
    """One TCP connection: bytes to frames, in place, and frames to bytes."""

    def __init__(self, links: Links, dialed: str = "") -> None:
        self._links = links
        self._dialed = dialed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._at = 0
        """Where what has not been parsed yet begins; it ends at `_filled`."""
        self._filled = 0
        self._heard_at_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""
        self.stream: Stream | None = None
        self.reason = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Who dialed says hello; who listens answers it, with a refusal if it must be."""
        self._transport = cast("asyncio.Transport", transport)
        if self._links.closing:
            # Accepted in the very turn in which the door was closed.
            self._transport.abort()
            return
        self._links.connections[self] = None
        if self._dialed:
            self._transport.write(self._hello_bytes(self._links.refusal))
        self._timer = self._loop.call_later(HELLO_WITHIN_S, self._tick)

    def _hello_bytes(self, refused: str = "") -> bytes:
        payload = self._links.hello(refused).model_dump_json().encode()
        return encode_header(Kind.HELLO, payload=payload) + payload

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Room for a turn behind what has not been parsed yet."""
        if RECEIVE_BUFFER_BYTES - self._filled < TURN_BYTES:
            # Part of a frame, so it fits before where it was.
            left = self._filled - self._at
            self._view[:left] = self._view[self._at : self._filled]
            self._at, self._filled = 0, left
        return self._view[self._filled : self._filled + TURN_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse every whole frame, keep the rest."""
        self._heard_at_s = self._loop.time()
        self._filled += nbytes
        try:
            while (parsed := parse(self._view[self._at : self._filled])) is not None:
                frame, size = parsed
                self._at += size
                if self.stream is not None and frame.kind is not Kind.HELLO:
                    if frame.kind is Kind.PING:
                        self.send(encode_header(Kind.PONG))
                    self.stream.receive(frame)
                elif frame.kind is Kind.HELLO:
                    self._greeted(Hello.model_validate_json(bytes(frame.payload)))
                else:
                    self.abort(f"protocol error: {frame} before the hello")
                if self._transport is None or self._transport.is_closing():
                    return
        except (FrameError, ExchangeError, ValidationError) as error:
            self.abort(f"protocol error: {str(error).splitlines()[0]}")
            return
        if self._at == self._filled:
            self._at = self._filled = 0
        if self.stream is not None and self.stream.owes_ack:
            self.stream.send_acks()

    def _greeted(self, hello: Hello) -> None:
        refusal = check_hello(hello, self._links.me, self._links.known) or self._links.refusal
        if self.stream is not None:
            # Who dialed may still refuse whom it reached.
            self.abort(refusal or "protocol error: a second hello")
            return
        if self._transport is not None and (refusal or not self._dialed) and not hello.refused:
            self._transport.write(self._hello_bytes(refusal))
        if refusal:
            self.peer = hello.node if hello.node in self._links.peers else ""
            self.abort(refusal)
            return
        self.peer = hello.node
        self.stream = Stream(
            self.send,
            lambda pair: self._links.events.find(pair, self.peer),
            lambda message: self._links.events.on_node_control(self.peer, message),
        )
        self._links.established(self, hello)
        self._schedule_ping()

    def send(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        """Put bytes on the wire; a payload that the kernel can't take now is copied."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if len(payload) <= JOIN_BELOW_BYTES:
            transport.write(b"".join((header, payload)))
        else:
            transport.write(header)
            transport.write(bytes(payload))

    def _schedule_ping(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(PING_EVERY_S, self._tick)

    def _tick(self) -> None:
        if self.stream is None:
            self.abort(f"no hello within {HELLO_WITHIN_S:.0f} s")
        elif self._loop.time() - self._heard_at_s > DEAD_AFTER_S:
            self.abort(f"silent for {DEAD_AFTER_S:.0f} s")
        else:
            self.send(encode_header(Kind.PING))
            self._schedule_ping()

    @property
    def expected(self) -> str:
        """Whose connection this is, as far as anyone knows."""
        return self.peer or self._dialed

    def abort(self, reason: str) -> None:
        """End the connection now; its epoch is over before this returns."""
        self.reason = self.reason or reason
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None and not self._transport.is_closing():
            # A refusal that was just written has to arrive; a peer that is silent would keep
            # the rest of a stream in our memory for ever.
            if self.stream is None:
                self._transport.close()
            else:
                self._transport.abort()
        self._links.ended(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._transport = None
        self._links.connections.pop(self, None)
        self.abort(str(exc) if exc else "closed by the peer")


class Links:
    """All peers of a node: listens, dials, and keeps at most one live connection each."""

    def __init__(
        self,
        me: str,
        node_id: str,
        peers: list[Peer],
        network: Network,
        events: LinkEvents,
    ) -> None:
        self.me = me
        self.node_id = node_id
        self.peers = {peer.name: peer for peer in peers}
        self.events = events
        self.reasons: dict[str, str] = {peer.name: "not connected yet" for peer in peers}
        self._network = network
        self.connections: dict[Connection, None] = {}
        """Every connection that has not been lost yet, greeted or not, in the order they began."""
        self._live: dict[str, Connection] = {}
        self._lost = {peer.name: asyncio.Event() for peer in peers}
        self._dialers: list[asyncio.Task[None]] = []
        self.closing = False
        self.refusal = ""
        """Why this node talks to nobody, or an empty text."""

    def hello(self, refused: str = "") -> Hello:
        """What this node says first."""
        return Hello(node=self.me, node_id=self.node_id, link_version=VERSION, refused=refused)

    def known(self, name: str) -> str | None:
        """What `check_hello` asks: None for a stranger, "" for a peer met for the first time."""
        if name not in self.peers:
            return None
        return self.events.known_id(name) or ""

    async def start(self, host: str, port: int) -> int:
        """Listen, and dial the peers that sort after this node; returns the port."""
        bound_port = await self._network.listen(host, port, lambda: Connection(self))
        for peer in self.peers.values():
            if self.me < peer.name:
                self._dialers.append(asyncio.create_task(self._keep_dialing(peer)))
        return bound_port

    async def _keep_dialing(self, peer: Peer) -> None:
        pause_s = RETRY_MIN_S
        while True:
            self._lost[peer.name].clear()
            try:
                await self._network.dial(peer.host, peer.port, lambda: Connection(self, peer.name))
                await self._lost[peer.name].wait()
                if peer.name in self._live:
                    continue
                if not self.reasons[peer.name].startswith("refused"):
                    pause_s = RETRY_MIN_S
            except OSError as error:
                self._note(peer.name, f"{peer.host}:{peer.port}: {error.strerror or error}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    def _note(self, peer: str, reason: str) -> None:
        if self.reasons.get(peer) != reason:
            log.warning("link to %s: %s", peer, reason)
            self.reasons[peer] = reason

    def connected(self, peer: str) -> bool:
        """Whether a stream with that peer is open."""
        return peer in self._live

    def established(self, connection: Connection, hello: Hello) -> None:
        """A greeted connection takes the place of any older one (law L9)."""
        old = self._live.get(connection.peer)
        if old is not None:
            old.abort("replaced by a newer connection")
        if self.events.known_id(hello.node) is None:
            self.events.learn_id(hello.node, hello.node_id)
        self._live[connection.peer] = connection
        self.reasons[connection.peer] = ""
        log.info("link to %s: up", connection.peer)
        assert connection.stream is not None
        self.events.on_up(connection.peer, connection.stream)

    def ended(self, connection: Connection) -> None:
        """A connection is over; tickets first, then the news."""
        peer = connection.expected
        if connection.stream is not None and connection.stream.open:
            connection.stream.close()
            if self._live.get(peer) is connection:
                del self._live[peer]
                self._note(peer, connection.reason)
                self.events.on_down(peer, connection.reason)
        elif peer and connection.stream is None and peer not in self._live:
            self._note(peer, f"refused: {connection.reason}")
        if peer in self._lost and peer not in self._live:
            self._lost[peer].set()

    def stream(self, peer: str) -> Stream | None:
        """The live stream with a peer."""
        connection = self._live.get(peer)
        return connection.stream if connection else None

    def refuse(self, reason: str) -> None:
        """End every connection, and let each peer know why from here on."""
        self.refusal = reason
        for connection in list(self.connections):
            connection.abort(reason)

    async def close(self) -> None:
        """Stop dialing and listening, end every connection."""
        self.closing = True
        for task in self._dialers:
            task.cancel()
        await asyncio.gather(*self._dialers, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort("this node stops")
        await self._network.close()
