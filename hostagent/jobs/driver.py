"""Moving one job through its table of steps, forward or back.

Owns the order of things: the record is saved before every step, a step is tried again as its
errors allow, and a failed one turns the job round. The rules are the engine's. Must not know what
a step does, nor which other jobs there are. A job that can't be moved, because its record can't be
saved, stands still and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind, JobState
from hostagent.errors import FinalError, as_rejected
from hostagent.jobs.context import COMMITTED, JobContext
from hostagent.jobs.ports import Ports
from hostagent.jobs.record import JobRecord, Phase
from hostagent.jobs.retry import CAREFUL, INSISTENT, TRANSIENT, RetryPolicy, wait_s
from hostagent.jobs.steps import ContinueAsError, EndEarlyError, JobTable, Step, StepWork

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Job:
    """A job in memory: its context, and the task that drives it."""

    def __init__(self, context: JobContext) -> None:
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self.cancel_asked = False
        self.undoing = False
        """What comes ahead of the undo has been tried in this life."""
        self.turned = asyncio.Event()
        """Set when a cancelled job has begun, durably, to be undone."""


class Driver:
    """Drives the jobs of one agent, each in a task of its own."""

    def __init__(self, node: str, tables: dict[JobKind, JobTable], ports: Ports) -> None:
        self._node = node
        self._tables = tables
        self._ports = ports
        self.closed = False
        """The agent stops: what is interrupted is left to be resumed."""

    async def drive(self, job: Job) -> None:
        """Take a job to its end, or say why it stands still."""
        try:
            await self._move(job)
        except Exception as exc:  # noqa: BLE001 - nobody else would tell what became of the job
            _log.exception("job stands still", job=job.context.record.id)
            job.context.stand_still(self._problem(job.context.record, exc))

    def _problem(self, record: JobRecord, exc: Exception) -> RejectedError:
        if not isinstance(exc, OSError):
            exc = self._unexpected(record, exc)
        rejected = as_rejected(exc)
        go_on = f"go on with `trilun job resume {record.id}`"
        if not record.facts.get(COMMITTED):
            go_on += f", or undo it with `trilun job cancel {record.id}`"
        return RejectedError(rejected.code, rejected.message, f"{rejected.next_step}; then {go_on}")

    def _unexpected(self, record: JobRecord, exc: Exception) -> RejectedError:
        return RejectedError(
            Code.INTERNAL,
            f"internal error: {type(exc).__name__}: {exc}",
            f"look for job {record.id} in the log of {self._node}, and report it",
        )

    async def _move(self, job: Job) -> None:
        record = job.context.record
        if job.cancel_asked and record.phase is Phase.FORWARD:
            job.context.interrupted.clear()
            await self._turn(job, JobState.CANCELLED)
        while record.phase is not Phase.ENDED:
            table = self._tables[record.kind]
            step = table.steps[record.step]
            try:
                if record.phase is Phase.FORWARD:
                    await self._forward(job, step, len(table.steps))
                else:
                    await self._back(job, step)
            except asyncio.CancelledError:
                if self.closed or not job.cancel_asked or record.phase is not Phase.FORWARD:
                    raise
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                job.context.interrupted.clear()
                await self._turn(job, JobState.CANCELLED)
        _log.info("job ended", job=record.id, state=record.state.value, error=record.error)

    async def _forward(self, job: Job, step: Step, count: int) -> None:
        context, record = job.context, job.context.record
        await context.save()
        _log.info("job step", job=record.id, step=step.name)
        try:
            with self._timed(record, step.name):
                await self._attempts(job, step.run, lambda: _policy(context))
        except EndEarlyError:
            await self._turn(job, JobState.DONE)
            return
        except ContinueAsError as exc:
            _log.info("job goes on as another kind", job=record.id, kind=exc.kind.value)
            context.become(exc.kind, self._tables[exc.kind].names, exc.step, exc.why)
            return
        except RejectedError as exc:
            record.error, record.code = f"{step.name}: {exc.message}", exc.code
            record.next_step = exc.next_step
            if context.committed:
                record.error += "; what was done stays: nothing is undone"
                if not isinstance(exc, FinalError):
                    go_on = f"go on with `trilun job resume {record.id}`"
                    record.next_step = f"{exc.next_step}; then {go_on}".removeprefix("; then ")
                await self._end(job, JobState.FAILED)
            else:
                await self._turn(job, JobState.FAILED)
            return
        record.message = ""
        if record.step + 1 == count:
            await self._end(job, JobState.DONE)
        else:
            record.step += 1

    @contextmanager
    def _timed(self, record: JobRecord, step: str) -> Iterator[None]:
        began_s = self._ports.clock.monotonic()
        try:
            yield
        finally:
            took_s = self._ports.clock.monotonic() - began_s
            record.step_s[step] = record.step_s.get(step, 0.0) + took_s

    async def _back(self, job: Job, step: Step) -> None:
        context, record = job.context, job.context.record
        await context.save()
        await self._ahead_of_undo(job)
        if step.undo is not None:
            try:
                await self._attempts(job, step.undo, lambda: INSISTENT)
            except RejectedError as exc:
                _log.error("undo failed", job=record.id, step=step.name, problem=exc.message)
                undone = f"undoing '{step.name}' failed: {exc.message}"
                record.error = f"{record.error}; {undone}" if record.error else undone
                record.code = exc.code if record.code is Code.OK else record.code
                record.next_step = exc.next_step or record.next_step
                record.ends_as = JobState.FAILED
        if record.step == 0:
            await self._end(job, record.ends_as)
        else:
            record.step -= 1

    async def _ahead_of_undo(self, job: Job) -> None:
        record = job.context.record
        ahead = self._tables[record.kind].ahead_of_undo
        if ahead is None or job.undoing:
            return
        job.undoing = True
        try:
            await self._attempts(job, ahead, lambda: CAREFUL)
        except RejectedError as exc:
            # Not the end of it: the undo of its step tries again for long, and says what it meets.
            _log.warning("put off", job=record.id, why=exc.message)

    async def _turn(self, job: Job, ends_as: JobState) -> None:
        record = job.context.record
        record.phase, record.ends_as = Phase.UNDO, ends_as
        record.message = "cleaning up" if ends_as is JobState.DONE else "undoing"
        await job.context.save()
        job.turned.set()

    async def _end(self, job: Job, state: JobState) -> None:
        record = job.context.record
        phase = record.phase
        record.phase, record.ends_as = Phase.ENDED, state
        record.ended_at = self._ports.clock.time()
        record.message = ""
        try:
            await job.context.save()
        except BaseException:
            # It has not ended before that is on disk.
            record.phase = phase
            raise

    async def _attempts(self, job: Job, work: StepWork, policy: Any) -> None:
        """Run a step until it succeeds or the policy gives up; raises RejectedError then."""
        context, record = job.context, job.context.record
        since_s: float | None = None
        attempts = refused = 0
        while True:
            try:
                await work(context)
            except (RejectedError, OSError) as exc:
                rejected = as_rejected(exc)
            except (EndEarlyError, ContinueAsError):
                raise
            except Exception as exc:  # noqa: BLE001 - a job's mistake must not end the agent
                _log.exception("job step failed unexpectedly", job=record.id)
                rejected = self._unexpected(record, exc)
            else:
                return
            now_s = self._ports.clock.monotonic()
            since_s = now_s if since_s is None else since_s
            attempts += 1
            refused += rejected.code not in TRANSIENT
            chosen: RetryPolicy = policy()
            final = isinstance(rejected, FinalError)
            if final or not chosen.again(rejected.code, now_s - since_s, refused):
                raise rejected
            record.message = f"trying again: {rejected.message}"
            context.publish()
            await self._ports.pause(wait_s(attempts))


def _policy(context: JobContext) -> RetryPolicy:
    return INSISTENT if context.committed else CAREFUL
