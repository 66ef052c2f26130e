"""One TCP connection: its socket, its two halves, and what stands between them.

Owns when bytes are read and written, and the change from login to session. Must not parse or
build PDUs. A connection that fails is closed, its commands aborted, and the reason logged.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from targets.iscsi.entrance import Admission, Entrance
from targets.iscsi.login import LoginStatus
from targets.iscsi.node import SessionInfo, TargetNode
from targets.iscsi.outbox import Outbox
from targets.iscsi.pdu import ProtocolError
from targets.iscsi.sequence import Sequence
from targets.iscsi.session import Session, Shell
from targets.iscsi.stream import PduStream

if TYPE_CHECKING:
    from targets.iscsi.server import IscsiServer

_LINGER_S = 2.0


class Connection:
    """A connection, from accept to close."""

    def __init__(
        self,
        server: IscsiServer,
        loop: asyncio.AbstractEventLoop,
        peer: socket.socket,
        address: str,
    ) -> None:
        self.server = server
        self.address = address
        self.session: Session | None = None
        self._loop = loop
        self._socket = peer
        self._fd = peer.fileno()
        name = peer.getsockname()
        self._local: tuple[str, int] = (name[0], name[1])
        self._outbox = Outbox()
        self._entrance = Entrance(server.rules, self._outbox, self._admit, self._refused)
        self._stream = PduStream(self._entrance, server.limits.offer.max_recv_segment_bytes)
        self._since = self._heard = server.clock()
        self._pinged = False
        self._in_batch = False
        self._flush_soon = False
        self._reading = True
        self._writing = False
        self._closed = False
        self._end_reason: str | None = None
        self._end_at = 0.0
        loop.add_reader(self._fd, self._readable)

    def info(self) -> SessionInfo:
        """The session on this connection, for people."""
        session = self.session
        assert session is not None
        return SessionInfo(
            session.initiator,
            self.address,
            session.isid.hex(),
            session.tsih,
            self._since,
            any(nexus.lost_writes for nexus in session.tasks.nexuses.values()),
        )

    # --------------------------------------------------------------------------------- bytes

    def _readable(self) -> None:
        try:
            room = self._stream.room()
            if len(room) == 1:
                count = self._socket.recv_into(room[0])
            else:
                count = self._socket.recvmsg_into(room)[0]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"connection lost: {error}")
            return
        if count == 0:
            self.close("connection closed by the initiator")
            return
        self._heard = self.server.clock()
        self._pinged = False
        self._take(count)

    def _take(self, count: int) -> None:
        """Let the stream deliver what has come, and send all answers at once."""
        self._in_batch = True
        try:
            if count:
                self._stream.received(count)
            else:
                self._stream.parse()
        except ProtocolError as error:
            self._broken(error)
        except Exception:
            # Ours to fix, but one connection's trouble must not become every connection's.
            self.server.log.exception("internal error on the connection from %s", self.address)
            self.close("internal error")
        finally:
            self._in_batch = False
        if not self._closed:
            self._flush()

    def _broken(self, error: ProtocolError) -> None:
        session = self.session
        if session is not None and error.reason is not None:
            session.reject(bytes(48), error.reason)
        self._end(f"protocol error: {error}")
        if session is None:
            self.close(f"protocol error: {error}")

    def _wake(self) -> None:
        """Something was queued outside a batch: send it with whatever else this turn brings."""
        if not self._in_batch and not self._flush_soon and not self._closed:
            self._flush_soon = True
            self._loop.call_soon(self._flush_woken)

    def _flush_woken(self) -> None:
        self._flush_soon = False
        if not self._closed:
            self._flush()

    def _flush(self) -> None:
        outbox = self._outbox
        try:
            while outbox.unsent_bytes:
                vector = outbox.vector()
                outbox.sent(self._socket.sendmsg(vector))
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._writable)
        except OSError as error:
            self.close(f"connection lost: {error}")
            return
        else:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)
            if self._end_reason is not None:
                self.close(self._end_reason)
                return
        self._throttle()

    def _writable(self) -> None:
        self._flush()

    def _throttle(self) -> None:
        """Read only while the sink takes more."""
        paused = self._stream.sink.paused
        if paused and self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        elif not paused and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)
            # What was received before the pause may hold whole PDUs.
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._closed and not self._stream.sink.paused:
            self._take(0)

    # --------------------------------------------------------------------------------- login

    def _refused(self, detail: str) -> None:
        self.server.log.warning("login refused from %s: %s", self.address, detail)
        self._end("login refused")

    def _admit(self, admission: Admission) -> None:
        machine = admission.machine

        def ready(node: TargetNode | None, tsih: int, status: LoginStatus) -> None:
            if self._closed:
                return
            if node is None:
                admission.finish(0, status)
                self._wake()
                return
            admission.finish(tsih, LoginStatus.SUCCESS)
            self._begin(node, admission, tsih)

        iqn = None if machine.discovery else machine.target
        self.server.place_session(self, iqn, machine.initiator, machine.isid, admission.tsih, ready)

    def _begin(self, node: TargetNode, admission: Admission, tsih: int) -> None:
        """The full feature phase starts: digests count from the next PDU on."""
        machine, limits = admission.machine, self.server.limits
        parameters = machine.parameters
        sequence = Sequence(admission.cmd_sn, admission.stat_sn, limits.window, limits.immediate)
        shell = Shell(
            wake=self._wake,
            close=self._end,
            discover=lambda: self.server.discover(self._local, machine.initiator),
            log=self._log,
        )
        session = Session(
            node,
            initiator=machine.initiator,
            isid=machine.isid,
            tsih=tsih,
            discovery=machine.discovery,
            parameters=parameters,
            sequence=sequence,
            outbox=self._outbox,
            pool=self.server.pool,
            shell=shell,
        )
        session.cid = admission.cid
        self.session = session
        self._outbox.header_digest = self._stream.header_digest = parameters.header_digest
        self._outbox.data_digest = self._stream.data_digest = parameters.data_digest
        self._stream.sink = session
        self._since = self.server.clock()
        kind = "discovery" if machine.discovery else node.config.iqn
        self._log(f"login to {kind}")
        if not self._in_batch:
            self._loop.call_soon(self._resume)

    def _log(self, what: str) -> None:
        who = self.session.initiator if self.session is not None else "unnamed initiator"
        self.server.log.info("%s from %s: %s", who, self.address, what)

    # ----------------------------------------------------------------------------------- end

    def ask_for_logout(self, within_s: int) -> None:
        """The target goes away."""
        if self.session is not None:
            self.session.ask_for_logout(within_s)
            self._wake()

    def tick(self, now: float) -> None:
        """Once a second: login deadline, sign of life, patience with the last bytes."""
        limits = self.server.limits
        if self._end_reason is not None:
            if now >= self._end_at:
                self.close(self._end_reason)
        elif self.session is None:
            if now - self._since > limits.login_s:
                self.close("login took too long")
        elif now - self._heard > 2 * limits.idle_s:
            self.close("no sign of life")
        elif now - self._heard > limits.idle_s and not self._pinged and self._reading:
            self._pinged = True
            self.session.ping()
            self._wake()

    def _end(self, reason: str) -> None:
        """Close once everything queued is sent, or the peer won't take it."""
        if self._end_reason is None:
            self._end_reason = reason
            self._end_at = self.server.clock() + _LINGER_S
            if self.session is not None:
                self.session.closing = True
            self._wake()

    def close(self, reason: str) -> None:
        """Close now; commands inside volumes end there without an answer."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._socket.close()
        self._log(f"closed: {reason}")
        session = self.session
        if session is not None:
            session.gone(self.server.session_quiet)
        self._outbox.drop()
        self.server.connection_closed(self)
