"""The login phase of one connection: login PDUs in and out, and the session at the end.

Owns the framing of login (RFC 7143, 11.12 and 11.13). Must not know sockets; the decisions are
`login`'s. Fails with `ProtocolError`, or by a login response with a failure status.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from targets.iscsi import text
from targets.iscsi.login import LoginMachine, LoginStatus, Reply, Request, Rules, State
from targets.iscsi.outbox import Outbox
from targets.iscsi.pdu import BHS, CONTINUE, Header, Opcode, ProtocolError


@dataclass(frozen=True, slots=True)
class Admission:
    """A login that has succeeded, waiting for its session."""

    machine: LoginMachine
    tsih: int
    cid: int
    cmd_sn: int
    stat_sn: int
    finish: Callable[[int, LoginStatus], None]
    """Send the last response, with the session's TSIH or a failure."""


class Entrance:
    """Sink of a connection until it has logged in."""

    def __init__(
        self,
        rules: Rules,
        outbox: Outbox,
        admit: Callable[[Admission], None],
        refused: Callable[[str], None],
    ) -> None:
        self.machine = LoginMachine(rules)
        self.outbox = outbox
        self.admit = admit
        self.refused = refused
        self.waiting = False
        self._stat_sn = 0
        self._cmd_sn: int | None = None
        self._cid = 0

    @property
    def paused(self) -> bool:
        """Nothing more is taken once the login has ended, one way or the other."""
        return self.waiting

    def place(self, _header: Header, _raw: bytes, _length_bytes: int) -> memoryview | None:
        """Login text is small: it stays in the receive buffer."""
        return None

    def handle(self, header: Header, raw: bytes, data: memoryview) -> None:
        """Take one login request."""
        if header[0] & 0x3F != Opcode.LOGIN:
            raise ProtocolError("first PDU is not a login request")
        if self._cmd_sn is None:
            self._cmd_sn, self._stat_sn, self._cid = header[8], header[9], header[7] >> 16
        flags = header[1]
        request = Request(
            transit=bool(flags & 0x80),
            more=bool(flags & CONTINUE),
            current_stage=flags >> 2 & 3,
            next_stage=flags & 3,
            version_min=raw[3],
            isid=raw[8:14],
            tsih=int.from_bytes(raw[14:16], "big"),
            data=bytes(data),
        )
        reply = self.machine.receive(request)
        if reply.status is not LoginStatus.SUCCESS:
            self._fail(header, raw, reply)
            return
        if self.machine.state is not State.DONE:
            self._send(header, raw, reply, 0)
            return
        self.waiting = True

        def finish(tsih: int, status: LoginStatus) -> None:
            if status is LoginStatus.SUCCESS:
                self._send(header, raw, reply, tsih)
            else:
                self._fail(header, raw, Reply(status, detail=status.name.lower()))

        cmd_sn = self._cmd_sn
        self.admit(
            Admission(self.machine, request.tsih, self._cid, cmd_sn, self._stat_sn + 1, finish)
        )

    def _fail(self, header: Header, raw: bytes, reply: Reply) -> None:
        self.waiting = True
        self._send(header, raw, reply, 0)
        who = self.machine.initiator or "unnamed initiator"
        self.refused(f"{who}: {reply.status.name.lower()} ({reply.detail})")

    def _send(self, header: Header, raw: bytes, reply: Reply, tsih: int) -> None:
        flags = reply.current_stage << 2
        if reply.transit:
            flags |= 0x80 | reply.next_stage
        data = text.encode(reply.pairs)
        cmd_sn = self._cmd_sn or 0
        self.outbox.put(
            BHS.pack(
                Opcode.LOGIN_RESPONSE, flags, 0, 0, len(data),
                int.from_bytes(raw[8:14], "big") << 16 | tsih, header[6], 0,
                self._stat_sn, cmd_sn, cmd_sn, reply.status << 16, 0, 0,
            ),
            data,
        )  # fmt: skip
        self._stat_sn = self._stat_sn + 1 & 0xFFFFFFFF
