"""The full feature phase of one session, which is one connection (RFC 7143, 4 and 11).

Owns sequencing and every request but the SCSI commands themselves (`tasks`) and task
management (`management`). Must not know sockets or clocks. Fails with `ProtocolError`: at
error recovery level 0 the connection ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from targets.iscsi import text
from targets.iscsi.buffers import BufferPool
from targets.iscsi.management import Function, Response, manage
from targets.iscsi.negotiation import NegotiationError, Offer, Parameters, When, negotiate
from targets.iscsi.node import TargetConfig, TargetNode
from targets.iscsi.outbox import Outbox, build
from targets.iscsi.pdu import (
    CONTINUE,
    FINAL,
    IMMEDIATE,
    NO_TAG,
    AsyncEvent,
    Header,
    Opcode,
    ProtocolError,
    RejectReason,
)
from targets.iscsi.sequence import Sequence
from targets.iscsi.tasks import TaskSet

_DATA_OUT, _COMMAND = int(Opcode.DATA_OUT), int(Opcode.SCSI_COMMAND)
MAX_UNSENT_BYTES = 4 << 20


@dataclass(frozen=True)
class Shell:
    """What a session needs from whoever holds its connection."""

    wake: Callable[[], None]
    """The outbox has something to send."""
    close: Callable[[str], None]
    """End the connection once the outbox is empty; the reason is for the log."""
    discover: Callable[[], list[tuple[str, list[str]]]]
    """Names of the targets that it may log in to, with their addresses (`host:port,group`)."""
    log: Callable[[str], None]


class Session:
    """One logged-in initiator."""

    def __init__(
        self,
        node: TargetNode,
        *,
        initiator: str,
        isid: bytes,
        tsih: int,
        discovery: bool,
        parameters: Parameters,
        sequence: Sequence,
        outbox: Outbox,
        pool: BufferPool,
        shell: Shell,
    ) -> None:
        self.node = node
        self.initiator = initiator
        self.isid = isid
        self.tsih = tsih
        self.discovery = discovery
        self.sequence = sequence
        self.outbox = outbox
        self.shell = shell
        self.closing = False
        self.cid = 0
        """Connection id from login."""
        name = f"{initiator},i,0x{isid.hex()}"
        self.tasks = TaskSet(node.scsi, name, parameters, sequence, outbox, pool, shell.wake)
        self._text = bytearray()
        self._text_rest = b""
        self._text_tag = NO_TAG
        node.sessions.add(self)

    # ----------------------------------------------------------------------------- the sink

    @property
    def paused(self) -> bool:
        """Nothing more is taken while the initiator doesn't read its answers."""
        return self.closing or self.outbox.unsent_bytes > MAX_UNSENT_BYTES

    def place(self, header: Header, raw: bytes, length_bytes: int) -> memoryview | None:
        """Where a large payload should land."""
        opcode = header[0] & 0x3F
        if opcode == _DATA_OUT:
            return self.tasks.place_data_out(header, length_bytes)
        if opcode == _COMMAND and not self.discovery:
            if header[0] & IMMEDIATE or header[8] != self.sequence.exp_cmd_sn:
                return None
            return self.tasks.place_command(header, raw, length_bytes)
        return None

    def handle(self, header: Header, raw: bytes, data: memoryview) -> None:
        """Take one request."""
        opcode = header[0] & 0x3F
        if opcode == _DATA_OUT:
            self.tasks.data_out(header, data)
            return
        immediate = header[0] & IMMEDIATE != 0
        if immediate:
            if self.sequence.immediate_left <= 0:
                self.reject(raw, RejectReason.IMMEDIATE)
                return
            self.sequence.immediate_left -= 1
        elif opcode != Opcode.SNACK and not self.sequence.accept(header[8]):
            return
        if opcode == _COMMAND and not self.discovery:
            self.tasks.command(header, raw, data, immediate)
        elif opcode == Opcode.TASK_MANAGEMENT and not self.discovery:
            self._manage(header, immediate)
        elif opcode == Opcode.LOGOUT:
            self._logout(header, immediate)
        else:
            if opcode != Opcode.SNACK:
                self.sequence.answered(immediate)
            self._at_once(opcode, header, raw, data)

    def _at_once(self, opcode: int, header: Header, raw: bytes, data: memoryview) -> None:
        """Requests that are answered before the next is looked at."""
        if opcode == Opcode.NOP_OUT:
            self._nop_out(header, data)
        elif opcode == Opcode.TEXT:
            self._text_request(header, raw, bytes(data))
        elif opcode == Opcode.SNACK:
            self.reject(raw, RejectReason.SNACK)
        elif opcode == Opcode.LOGIN:
            raise ProtocolError("login request in the full feature phase", RejectReason.PROTOCOL)
        else:
            self.reject(raw, RejectReason.NOT_SUPPORTED)

    # ------------------------------------------------------------------------------ answers

    def _put(
        self,
        opcode: Opcode,
        flags: int,
        itt: int,
        *,
        code: int = 0,
        lun: int = 0,
        tag: int = 0,
        words: tuple[int, int, int] = (0, 0, 0),
        data: bytes = b"",
        status: bool = True,
    ) -> None:
        sequence = self.sequence
        stat_sn = sequence.next_stat_sn() if status else sequence.stat_sn
        header = build(
            opcode, flags, len(data), lun, itt, tag,
            stat_sn, sequence.exp_cmd_sn, sequence.max_cmd_sn, *words,
        )  # fmt: skip
        if code:
            header = header[:2] + bytes((code,)) + header[3:]
        self.outbox.put(header, data)

    def reject(self, raw: bytes, reason: RejectReason) -> None:
        """Send a REJECT with the header it is about (RFC 7143, 11.17)."""
        self.shell.log(f"reject {reason.name.lower()} of opcode 0x{raw[0] & 0x3F:02x}")
        self._put(Opcode.REJECT, FINAL, NO_TAG, code=reason, data=raw)

    def ping(self) -> None:
        """Ask the initiator for a sign of life (RFC 7143, 11.19)."""
        self._put(Opcode.NOP_IN, FINAL, NO_TAG, tag=1, status=False)

    def ask_for_logout(self, within_s: int) -> None:
        """Tell the initiator to log out, because its target goes away (RFC 7143, 11.9)."""
        event = AsyncEvent.LOGOUT_REQUEST << 24
        self._put(Opcode.ASYNC, FINAL, NO_TAG, words=(event, within_s, 0))

    def _nop_out(self, header: Header, data: memoryview) -> None:
        itt = header[6]
        if itt == NO_TAG:
            return
        echo = bytes(data[: self.tasks.parameters.max_send_segment_bytes])
        self._put(Opcode.NOP_IN, FINAL, itt, lun=header[5], tag=NO_TAG, data=echo)

    def _manage(self, header: Header, immediate: bool) -> None:
        itt, function = header[6], header[1] & 0x7F

        def answer(response: Response) -> None:
            self.sequence.answered(immediate)
            if self not in self.node.sessions:
                return
            self._put(Opcode.TASK_MANAGEMENT_RESPONSE, FINAL, itt, code=response)
            self.shell.wake()
            if function == Function.TARGET_COLD_RESET and response is Response.COMPLETE:
                for session in self.node.sessions:
                    session.end("target cold reset")

        manage(self, header, answer)

    def _logout(self, header: Header, immediate: bool) -> None:
        reason, itt = header[1] & 0x7F, header[6]
        code = 2 if reason == 2 else 0
        if reason == 1 and header[7] >> 16 != self.cid:
            code = 1

        def quiet() -> None:
            self.sequence.answered(immediate)
            words = (0, 0x00020000, 0)
            self._put(Opcode.LOGOUT_RESPONSE, FINAL, itt, code=code, words=words)
            if code == 0:
                self.end("logout")
            self.shell.wake()

        if code:
            quiet()
        else:
            self.tasks.abort(list(self.tasks.tasks.values()))
            self.tasks.when_quiet(quiet)

    def end(self, reason: str) -> None:
        """Take nothing more, and close once everything is sent."""
        if not self.closing:
            self.closing = True
            self.shell.close(reason)

    def gone(self, ready: Callable[[], None] | None = None) -> None:
        """The connection is closed: abort all, leave the node once the volumes are quiet."""
        self.closing = True
        self.tasks.end_all()
        self.tasks.close()

        def quiet() -> None:
            self.node.sessions.discard(self)
            if ready is not None:
                ready()

        self.tasks.when_quiet(quiet)

    # --------------------------------------------------------------------------------- text

    def _text_request(self, header: Header, raw: bytes, data: bytes) -> None:
        """Text negotiation: SendTargets, a new segment length (RFC 7143, 11.10)."""
        flags, itt, ttt = header[1], header[6], header[7]
        if ttt != NO_TAG:
            if ttt != self._text_tag or not (self._text_rest or self._text):
                self.reject(raw, RejectReason.PROTOCOL)
                return
            if self._text_rest:
                self._send_text(itt)
                return
        else:
            self._text.clear()
        self._text += data
        if len(self._text) > text.MAX_TEXT_BYTES:
            raise ProtocolError("text too long", RejectReason.PROTOCOL)
        if flags & CONTINUE:
            self._text_tag = 1
            self._put(Opcode.TEXT_RESPONSE, 0, itt, tag=1)
            return
        try:
            answers = self._answer_keys(text.decode(bytes(self._text)))
        except (text.TextError, NegotiationError):
            self._text.clear()
            self.reject(raw, RejectReason.INVALID_FIELD)
            return
        self._text.clear()
        self._text_rest = text.encode(answers)
        self._send_text(itt)

    def _send_text(self, itt: int) -> None:
        size = self.tasks.parameters.max_send_segment_bytes
        part, self._text_rest = self._text_rest[:size], self._text_rest[size:]
        self._text_tag = 1 if self._text_rest else NO_TAG
        flags = CONTINUE if self._text_rest else FINAL
        self._put(Opcode.TEXT_RESPONSE, flags, itt, tag=self._text_tag, data=part)

    def _answer_keys(self, pairs: text.Pairs) -> text.Pairs:
        answers: text.Pairs = []
        for key, value in pairs:
            if key == "SendTargets":
                answers += self._send_targets(value)
                continue
            parameters, answer = negotiate(
                self.tasks.parameters, Offer(), key, value, When.FULL_FEATURE
            )
            self.tasks.parameters = parameters
            if answer is not None:
                answers.append((key, answer))
        return answers

    def _send_targets(self, value: str) -> text.Pairs:
        """SendTargets; All belongs to discovery sessions (RFC 7143, appendix C)."""
        own = self.node.config.iqn
        if value == "All" and not self.discovery:
            return [("SendTargets", "Reject")]
        wanted = value or own
        answers: text.Pairs = []
        for iqn, addresses in self.shell.discover():
            if iqn == wanted or value == "All":
                answers.append(("TargetName", iqn))
                answers += [("TargetAddress", address) for address in addresses]
        return answers


def discovery_node() -> TargetNode:
    """The node discovery sessions belong to: no logical units."""
    return TargetNode(TargetConfig("iqn.2026-11.io.trilun:discovery", {}))
