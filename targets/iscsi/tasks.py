"""The SCSI commands of one session: data out, data in, status (RFC 7143, 11.3, 11.4, 11.7, 11.8).

Owns every task from its command PDU until its answer has left, and the buffers they hold.
Must not know sockets or other PDUs. A command that breaks the data rules ends with sense
data; `ProtocolError` is for what can't be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from targets.iscsi.buffers import LARGEST_BYTES, Buffer, BufferPool
from targets.iscsi.negotiation import Parameters
from targets.iscsi.outbox import Outbox
from targets.iscsi.pdu import (
    BHS,
    FINAL,
    NO_TAG,
    OVERFLOW,
    READ_FLAG,
    STATUS_FLAG,
    UNDERFLOW,
    WRITE_FLAG,
    Header,
    Opcode,
    ProtocolError,
)
from targets.iscsi.sequence import Sequence
from targets.iscsi.task import Stage, Task
from targets.scsi.cdb import data_in_bytes, data_out_bytes
from targets.scsi.command import Nexus
from targets.scsi.device import DeviceServer
from targets.scsi.sense import UNEXPECTED_UNSOLICITED_DATA
from targets.scsi.target import ScsiTarget

_pack = BHS.pack
_DATA_IN, _RESPONSE, _R2T = int(Opcode.DATA_IN), int(Opcode.SCSI_RESPONSE), int(Opcode.R2T)
_BLOCK_MASK = 511


class TaskSet:
    """All tasks of one session."""

    def __init__(
        self,
        scsi: ScsiTarget,
        name: str,
        parameters: Parameters,
        sequence: Sequence,
        outbox: Outbox,
        pool: BufferPool,
        wake: Callable[[], None],
    ) -> None:
        self.wake = wake
        """Tell the shell that something is in the outbox."""
        self.scsi = scsi
        self.parameters = parameters
        self.sequence = sequence
        self.outbox = outbox
        self.pool = pool
        self.tasks: dict[int, Task] = {}
        self.nexuses: dict[DeviceServer, Nexus] = {
            server: server.open_nexus(name) for server in scsi.servers.values()
        }
        self._routes: dict[int, tuple[DeviceServer, Nexus]] = {
            field: (server, self.nexuses[server]) for field, server in scsi.by_field.items()
        }
        self._nowhere = Nexus(name)
        self._placed: Task | None = None
        self._placed_command = False
        """The placed payload belongs to a command whose CmdSN is not accepted yet."""
        self._ttt = 0
        self._drains: list[tuple[set[Task], Callable[[], None]]] = []
        self._running_aborted: set[Task] = set()

    def close(self) -> None:
        """The initiator has gone; its nexuses and what they had to hear go with it."""
        for server, nexus in self.nexuses.items():
            server.close_nexus(nexus)

    # -------------------------------------------------------------------- requests coming in

    def place_command(self, header: Header, raw: bytes, length: int) -> memoryview | None:
        """Where a command's large immediate data should land."""
        if not self.parameters.immediate_data or not header[1] & WRITE_FLAG:
            return None
        if length > min(self.parameters.first_burst_bytes, header[7]):
            return None
        task = self._start(header, raw)
        if task.buffer is None or length > task.wanted_bytes:
            self.tasks.pop(task.itt)
            self.release(task)
            return None
        task.placing = True
        self._placed, self._placed_command = task, True
        return task.buffer.view[:length]

    def command(self, header: Header, raw: bytes, data: memoryview, immediate: bool) -> None:
        """A SCSI command PDU, with its immediate data."""
        task = self._placed
        if task is not None:
            self._placed = None
            task.placing = False
            task.immediate = immediate
            if task.aborted:
                self.sequence.answered(immediate)
                self.release(task)
                return
        else:
            task = self._start(header, raw)
            task.immediate = immediate
            flags = header[1]
            if flags & WRITE_FLAG == 0 and not data:
                self._run(task)
                return
        self._first_data(task, header[1], data)

    def _first_data(self, task: Task, flags: int, data: memoryview) -> None:
        parameters, length = self.parameters, len(data)
        final = bool(flags & FINAL)
        limit = min(parameters.first_burst_bytes, task.expected_bytes)
        if (
            not flags & WRITE_FLAG
            or length > limit
            or (length and not parameters.immediate_data)
            or (not final and parameters.initial_r2t)
        ):
            task.fail(UNEXPECTED_UNSOLICITED_DATA)
            return
        if length:
            buffer = task.buffer
            task.take(data, placed=buffer is not None and data.obj is buffer.view.obj)
        if final:
            self._advance(task)
        else:
            task.unsolicited_left = limit - length

    def _start(self, header: Header, raw: bytes) -> Task:
        field, itt = header[5], header[6]
        if itt == NO_TAG or itt in self.tasks:
            raise ProtocolError("initiator task tag in use")
        route = self._routes.get(field)
        if route is not None:
            task = Task(self, itt, field, route[0])
            task.nexus = route[1]
        else:
            server = self.scsi.find(field)
            task = Task(self, itt, field, server)
            task.nexus = self.nexuses[server] if server is not None else self._nowhere
        cdb = raw[32:48]
        task.cdb = cdb
        flags, expected = header[1], header[7]
        task.expected_bytes = expected
        if flags & WRITE_FLAG:
            task.offered_bytes = expected
            wanted = data_out_bytes(cdb)
            if wanted and wanted <= LARGEST_BYTES:
                task.wanted_bytes = wanted = min(wanted, expected)
                task.buffer = self.pool.take(wanted)
        elif flags & READ_FLAG:
            task.is_read = True
        self.tasks[itt] = task
        return task

    def place_data_out(self, header: Header, length: int) -> memoryview | None:
        """Where a large Data-Out payload should land, if it is in order."""
        task = self.tasks.get(header[6])
        if task is None or task.buffer is None:
            return None
        ttt, data_sn, offset = header[7], header[11], header[12]
        wrong = task.check_data_out(ttt, data_sn, offset, length, bool(header[1] & FINAL))
        if wrong is not None or offset + length > task.wanted_bytes:
            return None
        task.placing = True
        self._placed, self._placed_command = task, False
        return task.buffer.view[offset : offset + length]

    def data_out(self, header: Header, data: memoryview) -> None:
        """A Data-Out PDU; one for a task that has ended is dropped (RFC 7143, 11.5.1)."""
        placed = self._placed
        if placed is not None:
            self._placed = None
            placed.placing = False
            if placed.aborted:
                self.release(placed)
                return
        task = self.tasks.get(header[6])
        if task is None or task.stage is not Stage.RECEIVING:
            return
        final = bool(header[1] & FINAL)
        wrong = task.check_data_out(header[7], header[11], header[12], len(data), final)
        if wrong is not None:
            task.fail(wrong)
            return
        task.take(data, placed=placed is not None)
        task.data_sn += 1
        if header[7] == NO_TAG:
            task.unsolicited_left = -1 if final else task.unsolicited_left - len(data)
            if final:
                self._advance(task)
        elif task.received_bytes == task.burst_end:
            task.ttt = NO_TAG
            self._advance(task)

    # ------------------------------------------------------------------------ going on

    def _advance(self, task: Task) -> None:
        """All that was on its way has come: run the command, or ask for more."""
        if task.wanted_bytes and task.buffer is None:
            self._wait_for_buffer(task, task.wanted_bytes, self._advance)
        elif task.received_bytes >= task.wanted_bytes:
            self._run(task)
        else:
            self._ask(task)

    def _wait_for_buffer(self, task: Task, length: int, then: Callable[[Task], None]) -> None:
        def ready(buffer: Buffer) -> None:
            if task.aborted or task.stage is Stage.ENDED:
                self.pool.give(buffer)
                return
            task.buffer = buffer
            if task.spill is not None:
                buffer.view[: len(task.spill)] = task.spill
                task.spill = None
            then(task)
            self.wake()

        self.pool.wait(length, ready)

    def _ask(self, task: Task) -> None:
        """Send an R2T for the next burst (RFC 7143, 11.8)."""
        offset = task.received_bytes
        length = min(self.parameters.max_burst_bytes, task.wanted_bytes - offset)
        self._ttt = self._ttt + 1 & 0x7FFFFFFF
        task.ttt, task.burst_end, task.data_sn = self._ttt, offset + length, 0
        sequence = self.sequence
        self.outbox.put(
            _pack(
                _R2T, FINAL, 0, 0, 0, task.lun, task.itt, task.ttt,
                sequence.stat_sn, sequence.exp_cmd_sn, sequence.max_cmd_sn,
                task.r2t_sn, offset, length,
            )
        )  # fmt: skip
        task.r2t_sn += 1

    def _run(self, task: Task) -> None:
        """Give the command to the device server."""
        if task.wanted_bytes:
            assert task.buffer is not None
            task.data_out = (task.buffer.view[: task.wanted_bytes],)
        elif task.is_read and task.buffer is None:
            room = min(data_in_bytes(task.cdb), task.expected_bytes + _BLOCK_MASK & ~_BLOCK_MASK)
            if 0 < room <= LARGEST_BYTES:
                buffer = self.pool.take(room)
                if buffer is None:
                    self._wait_for_buffer(task, room, self._run)
                    return
                task.buffer = buffer
                view = buffer.view
                task.data_in = (view if len(view) == room else view[:room],)
        elif task.buffer is not None:
            room = min(data_in_bytes(task.cdb), task.expected_bytes + _BLOCK_MASK & ~_BLOCK_MASK)
            task.data_in = (task.buffer.view[:room],)
        task.stage = Stage.RUNNING
        server = task.server
        if server is not None and task.cdb[0] != 0xA0:
            server.submit(task)
        else:
            self.scsi.submit(server, task)

    # ---------------------------------------------------------------------- answers going out

    def task_completed(self, task: Task) -> None:
        """The command has ended: answer it, unless it was aborted meanwhile."""
        task.stage = Stage.ENDED
        if task.aborted:
            self.release(task)
            self._drained(task)
            return
        del self.tasks[task.itt]
        self.sequence.answered(task.immediate)
        data: memoryview | bytes = b""
        if task.is_read and not task.status:
            limit = task.expected_bytes
            if task.in_bytes:
                data = task.data_in[0]
                if task.in_bytes > limit or len(data) > task.in_bytes:
                    data = data[: min(task.in_bytes, limit)]
            else:
                data = task.reply[:limit]
        if data:
            self._send_data_in(task, data)
        else:
            self._send_response(task)
        if task.buffer is not None and not task.placing:
            if task.is_read:
                self.outbox.when_sent(task.release)
            else:
                self.release(task)
        self.wake()

    def _residual(self, task: Task) -> tuple[int, int]:
        difference = task.asked_bytes - task.expected_bytes
        return (OVERFLOW, difference) if difference > 0 else (UNDERFLOW, -difference)

    def _send_data_in(self, task: Task, data: memoryview | bytes) -> None:
        """Data-In PDUs; the last carries the status (RFC 7143, 11.7.3)."""
        flags = residual = 0
        if task.asked_bytes != task.expected_bytes:
            flags, residual = self._residual(task)
        parameters, sequence, outbox = self.parameters, self.sequence, self.outbox
        length, offset, data_sn = len(data), 0, 0
        segment, burst = parameters.max_send_segment_bytes, parameters.max_burst_bytes
        burst_left = burst
        while length - offset > min(segment, burst_left):
            size = min(segment, burst_left)
            burst_left -= size
            outbox.put(
                _pack(
                    _DATA_IN, 0 if burst_left else FINAL, 0, 0, size, task.lun, task.itt, NO_TAG,
                    0, sequence.exp_cmd_sn, sequence.max_cmd_sn, data_sn, offset, 0,
                ),
                data[offset : offset + size],
            )  # fmt: skip
            burst_left = burst_left or burst
            offset += size
            data_sn += 1
        outbox.put(
            _pack(
                _DATA_IN, FINAL | STATUS_FLAG | flags, 0, task.status, length - offset,
                task.lun, task.itt, NO_TAG, sequence.next_stat_sn(),
                sequence.exp_cmd_sn, sequence.max_cmd_sn, data_sn, offset, residual,
            ),
            data[offset:] if offset else data,
        )  # fmt: skip

    def _send_response(self, task: Task) -> None:
        """A SCSI Response PDU, with sense data if there is any (RFC 7143, 11.4)."""
        flags = residual = 0
        if task.asked_bytes != task.expected_bytes:
            flags, residual = self._residual(task)
        sequence, sense = self.sequence, task.sense
        data = len(sense).to_bytes(2, "big") + sense if sense else b""
        self.outbox.put(
            _pack(
                _RESPONSE, FINAL | flags, 0, task.status, len(data), 0, task.itt, 0,
                sequence.next_stat_sn(), sequence.exp_cmd_sn, sequence.max_cmd_sn,
                task.r2t_sn, 0, residual,
            ),
            data,
        )  # fmt: skip

    def release(self, task: Task) -> None:
        """Give a task's buffer back to the pool."""
        buffer = task.buffer
        if buffer is not None:
            task.buffer = None
            task.data_in = task.data_out = ()
            self.pool.give(buffer)

    # ------------------------------------------------------------------------------- aborts

    def abort(self, tasks: Collection[Task]) -> None:
        """End tasks without an answer; those that run go on inside until their callback."""
        for task in tasks:
            task.aborted = True
            del self.tasks[task.itt]
            if task.stage is Stage.RUNNING:
                self._running_aborted.add(task)
            elif not task.placing:
                self.release(task)
            if not (self._placed is task and self._placed_command):
                self.sequence.answered(task.immediate)

    def when_quiet(self, ready: Callable[[], None]) -> None:
        """Call `ready` once no aborted task is inside a logical unit any more."""
        if self._running_aborted:
            self._drains.append((set(self._running_aborted), ready))
        else:
            ready()

    def _drained(self, task: Task) -> None:
        self._running_aborted.discard(task)
        drains, self._drains = self._drains, []
        for waiting, ready in drains:
            waiting.discard(task)
            if waiting:
                self._drains.append((waiting, ready))
            else:
                ready()

    def end_all(self) -> None:
        """The connection is gone: abort everything, and forget a payload in flight."""
        self.abort(list(self.tasks.values()))
        placed, self._placed = self._placed, None
        if placed is not None:
            placed.placing = False
            if placed.stage is Stage.RECEIVING:
                self.release(placed)
