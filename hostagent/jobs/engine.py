"""The job engine: moves jobs through their tables of steps, forward or back, across restarts.

Owns which job runs, its record on disk (saved before every step), retries, and the undo. The
rules:

  - A step is run again when the agent died in it, so every step and every undo is idempotent.
  - A failed step undoes itself and everything before it, last first; the job ends FAILED.
  - After `commit` nothing is undone: the step is tried again for long, and if it is given up
    the job ends FAILED where it stands, and says so.
  - One job a data set at a time. Cancelling a job is undoing it.

Must not know what a step does. Stopping the engine leaves jobs RUNNING on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from pydantic import ValidationError

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobInfo, JobKind, JobState
from hostagent.config import DataSetConfig
from hostagent.errors import FinalError, as_rejected
from hostagent.jobs.context import JobContext
from hostagent.jobs.ports import Ports
from hostagent.jobs.record import JobRecord, Phase
from hostagent.jobs.retry import CAREFUL, INSISTENT, TRANSIENT, RetryPolicy, wait_s
from hostagent.jobs.steps import ContinueAsError, EndEarlyError, JobTable, Step, StepWork
from hostagent.programs import Blocking
from hostagent.records import RecordError, RecordStore

MAX_ENDED = 50
"""Ended jobs that are remembered."""
MAX_ENDED_LOOKS = 3
"""Looks leave no receipt, and would crowd those out that do."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Job:
    """A job in memory: its context, and the task that drives it."""

    def __init__(self, context: JobContext) -> None:
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self.cancel_asked = False
        self.turned = asyncio.Event()
        """Set when a cancelled job has begun, durably, to be undone."""


class JobEngine:
    """All jobs of one agent. `load` before anything else, `stop` at the end."""

    def __init__(
        self,
        node: str,
        tables: dict[JobKind, JobTable],
        store: RecordStore,
        blocking: Blocking,
        ports: Ports,
    ) -> None:
        self._node = node
        self._tables = tables
        self._store = store
        self._blocking = blocking
        self._ports = ports
        self._jobs: dict[str, _Job] = {}
        self._closed = False

    async def load(self, data_sets: dict[str, DataSetConfig]) -> None:
        """Read the records and go on with every job that was running."""
        for name in await self._blocking.run(self._store.names):
            try:
                body = await self._blocking.run(self._store.load, name)
                record = JobRecord.model_validate(body)
            except (RecordError, ValidationError) as exc:
                _log.error("job record unreadable", job=name, problem=" ".join(str(exc).split()))
                continue
            unknown = [each for each in record.data_sets if each not in data_sets]
            if unknown:
                _log.error("job of an unknown data set", job=name, data_set=unknown[0])
                continue
            job = self._add(record, [data_sets[each] for each in record.data_sets])
            job.context.publish()
            if record.phase is not Phase.ENDED:
                self._rewind(record)
                self._start(job)

    async def begin(
        self,
        kind: JobKind,
        data_sets: DataSetConfig | list[DataSetConfig],
        request_id: str,
        params: dict[str, Any],
        group: str = "",
    ) -> tuple[JobInfo, bool]:
        """Start a job; (info, True), or the same request's job and False.

        `group`: the name that several data sets go by. Raises RejectedError (in_use) while
        another job has one of the data sets.
        """
        several = data_sets if isinstance(data_sets, list) else [data_sets]
        names = [data_set.name for data_set in several]
        digest = hashlib.blake2s(request_id.encode(), digest_size=5).hexdigest()
        job_id = f"{kind.value}-{digest}"
        known = self._jobs.get(job_id)
        if known is not None:
            return known.context.info(), False
        self.check_free(names)
        record = JobRecord(
            id=job_id,
            kind=kind,
            data_set=group or names[0],
            members=names if group else [],
            params=params,
            started_at=self._ports.clock.time(),
        )
        job = self._add(record, several)
        try:
            await job.context.save()
        except OSError as exc:
            del self._jobs[job_id]
            raise as_rejected(exc) from exc
        self._start(job)
        await self._forget_old()
        return job.context.info(), True

    def list_jobs(self) -> list[JobInfo]:
        """Every job we remember, oldest first."""
        infos = [job.context.info() for job in self._jobs.values()]
        return sorted(infos, key=lambda info: info.started_at)

    def show(self, job_id: str) -> JobInfo:
        """One job; raises RejectedError (not_found)."""
        return self._find(job_id).context.info()

    async def cancel(self, job_id: str) -> tuple[JobInfo, bool]:
        """Undo a running job; False when there is nothing to cancel. Raises RejectedError."""
        job = self._find(job_id)
        record = job.context.record
        if record.phase is not Phase.FORWARD:
            return job.context.info(), False
        if job.context.committed:
            raise RejectedError(
                Code.WRONG_STATE,
                f"job {job_id} is at '{job.context.step_name}' and can only go forward",
                "wait until it has ended",
            )
        assert job.task is not None
        job.cancel_asked = True
        job.context.interrupted.set()
        job.task.cancel()
        turned = asyncio.create_task(job.turned.wait())
        await asyncio.wait({turned, job.task}, return_when=asyncio.FIRST_COMPLETED)
        turned.cancel()
        return job.context.info(), True

    async def resume(self, job_id: str) -> tuple[JobInfo, bool]:
        """Go on with a job that failed where only forward is possible; False when it runs."""
        job = self._find(job_id)
        record = job.context.record
        if record.phase is not Phase.ENDED:
            return job.context.info(), False
        if record.ends_as is not JobState.FAILED or not job.context.committed:
            raise RejectedError(
                Code.WRONG_STATE,
                f"job {job_id} has ended, with nothing left to be gone on with",
                "give its command again",
            )
        self.check_free(record.data_sets)
        record.phase, record.ends_as, record.ended_at = Phase.FORWARD, JobState.RUNNING, 0.0
        record.error, record.code, record.next_step = "", Code.OK, ""
        self._rewind(record)
        record.round += 1
        await job.context.save()
        self._start(job)
        return job.context.info(), True

    async def wait(self, job_id: str) -> JobInfo:
        """Wait until the job has ended, or the engine is stopped."""
        job = self._find(job_id)
        if job.task is not None:
            await asyncio.wait({job.task})
        return job.context.info()

    async def stop(self) -> None:
        """Interrupt what runs, leaving it to be resumed."""
        self._closed = True
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for job in self._jobs.values():
            job.context.stop()
            if job.task is not None:
                job.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- jobs in memory

    def _find(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise RejectedError(
                Code.NOT_FOUND, f"no job '{job_id}' on {self._node}", "see `trilun job list`"
            )
        return job

    def check_free(self, data_sets: list[str]) -> None:
        """Raise RejectedError (in_use) while a job has one of the data sets."""
        for other in self._jobs.values():
            record = other.context.record
            taken = sorted(set(record.data_sets) & set(data_sets))
            if taken and record.phase is not Phase.ENDED:
                raise RejectedError(
                    Code.IN_USE,
                    f"job {record.id} is working on '{taken[0]}'",
                    f"wait for it with `trilun job show {record.id}`, or cancel it",
                )

    def _add(self, record: JobRecord, data_sets: list[DataSetConfig]) -> _Job:
        steps = self._tables[record.kind].names
        job = _Job(
            JobContext(
                self._node, record, data_sets, steps, self._ports, self._store, self._blocking
            )
        )
        self._jobs[record.id] = job
        return job

    def _rewind(self, record: JobRecord) -> None:
        """Some steps can't be gone on with in their middle: their table says where to begin."""
        table = self._tables[record.kind]
        back_to = table.steps[record.step].resume_at
        if record.phase is Phase.FORWARD and back_to is not None:
            record.step = table.names.index(back_to)
            # What was asked then was for a moment that has passed: ask anew.
            record.round += 1

    def _start(self, job: _Job) -> None:
        name = f"job {job.context.record.id}"
        job.task = asyncio.create_task(self._drive(job), name=name)
        job.task.add_done_callback(_tell_of_crash)

    async def _forget_old(self) -> None:
        ended = [j.context.record for j in self._jobs.values()]
        ended = sorted((r for r in ended if r.phase is Phase.ENDED), key=lambda r: r.ended_at)
        looks = [record for record in ended if record.kind is JobKind.LOOK]
        ended = [record for record in ended if record.kind is not JobKind.LOOK]
        for record in ended[:-MAX_ENDED] + looks[:-MAX_ENDED_LOOKS]:
            del self._jobs[record.id]
            self._ports.forget(record.id)
            await self._blocking.run(self._store.delete, record.id)

    # -- moving through the table

    async def _drive(self, job: _Job) -> None:
        record = job.context.record
        while record.phase is not Phase.ENDED:
            table = self._tables[record.kind]
            step = table.steps[record.step]
            try:
                if record.phase is Phase.FORWARD:
                    await self._forward(job, step, len(table.steps))
                else:
                    await self._back(job, step)
            except asyncio.CancelledError:
                if self._closed or not job.cancel_asked or record.phase is not Phase.FORWARD:
                    raise
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                job.context.interrupted.clear()
                await self._turn(job, JobState.CANCELLED)
        _log.info("job ended", job=record.id, state=record.state.value, error=record.error)

    async def _forward(self, job: _Job, step: Step, count: int) -> None:
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

    async def _back(self, job: _Job, step: Step) -> None:
        context, record = job.context, job.context.record
        await context.save()
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

    async def _turn(self, job: _Job, ends_as: JobState) -> None:
        record = job.context.record
        record.phase, record.ends_as = Phase.UNDO, ends_as
        record.message = "cleaning up" if ends_as is JobState.DONE else "undoing"
        await job.context.save()
        job.turned.set()

    async def _end(self, job: _Job, state: JobState) -> None:
        record = job.context.record
        record.phase, record.ends_as = Phase.ENDED, state
        record.ended_at = self._ports.clock.time()
        record.message = ""
        await job.context.save()

    async def _attempts(self, job: _Job, work: StepWork, policy: Any) -> None:
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
                rejected = RejectedError(
                    Code.INTERNAL,
                    f"internal error: {type(exc).__name__}: {exc}",
                    f"look for job {record.id} in the log of {self._node}, and report it",
                )
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


def _tell_of_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("job task crashed", exc_info=task.exception())
