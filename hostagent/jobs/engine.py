"""The job engine: moves jobs through their tables of steps, forward or back, across restarts.

Owns which job runs, and which is remembered; `driver` has the moving. The rules:

  - A step is run again when the agent died in it, so every step and every undo is idempotent.
  - A failed step undoes itself and everything before it, last first; the job ends FAILED. What
    can't wait for that (host 1's volume) is tried ahead of it.
  - After `commit` nothing is undone: the step is tried again for long, and if it is given up
    the job ends FAILED where it stands, and says so.
  - One job a data set at a time. Cancelling a job is undoing it.

Must not know what a step does. Stopping the engine leaves jobs RUNNING on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import structlog
from pydantic import ValidationError

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobInfo, JobKind, JobState
from hostagent.config import DataSetConfig
from hostagent.errors import as_rejected
from hostagent.jobs.context import COMMITTED, JobContext
from hostagent.jobs.driver import Driver, Job
from hostagent.jobs.lost import of_unknown_data_set, unreadable
from hostagent.jobs.ports import Ports
from hostagent.jobs.record import JobRecord, Phase
from hostagent.jobs.steps import JobTable
from hostagent.programs import Blocking
from hostagent.records import RecordError, RecordStore

MAX_ENDED = 50
"""Ended jobs that are remembered."""
MAX_ENDED_LOOKS = 3
"""Looks leave no receipt, and would crowd those out that do."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


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
        self._jobs: dict[str, Job] = {}
        self._lost: dict[str, JobInfo] = {}
        """Which nobody can go on with; their records stay."""
        self._driver = Driver(node, tables, ports)

    async def load(self, data_sets: dict[str, DataSetConfig]) -> None:
        """Read the records and go on with every job that was running."""
        for name in await self._blocking.run(self._store.names):
            try:
                body = await self._blocking.run(self._store.load, name)
                record = JobRecord.model_validate(body)
            except (RecordError, ValidationError) as exc:
                problem = " ".join(str(exc).split())
                _log.error("job record unreadable", job=name, problem=problem)
                path = self._store.directory / f"{name}.json"
                self._lose(unreadable(self._node, name, str(path), problem))
                continue
            unknown = [each for each in record.data_sets if each not in data_sets]
            if unknown and (record.phase is not Phase.ENDED or _resumable(record)):
                _log.error("job of an unknown data set", job=name, data_set=unknown[0])
                shown = record.info(self._node, self._tables[record.kind].names)
                self._lose(of_unknown_data_set(shown, unknown[0]))
                continue
            known = [data_sets[each] for each in record.data_sets if each in data_sets]
            job = self._add(record, known)
            job.context.publish()
            if record.phase is not Phase.ENDED:
                self._rewind(record)
                self._start(job)

    def _lose(self, info: JobInfo | None) -> None:
        if info is not None:
            self._lost[info.id] = info
            self._ports.publish(info)

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
            await job.context.save(once=True)
        except OSError as exc:
            del self._jobs[job_id]
            raise as_rejected(exc) from exc
        self._start(job)
        await self._forget_old()
        return job.context.info(), True

    def list_jobs(self) -> list[JobInfo]:
        """Every job we remember, oldest first."""
        infos = [job.context.info() for job in self._jobs.values()]
        infos += self._lost.values()
        return sorted(infos, key=lambda info: info.started_at)

    def show(self, job_id: str) -> JobInfo:
        """One job; raises RejectedError (not_found)."""
        lost = self._lost.get(job_id)
        return self._find(job_id).context.info() if lost is None else lost

    async def cancel(self, job_id: str) -> tuple[JobInfo, bool]:
        """Undo a running job; False when there is nothing to cancel. Raises RejectedError."""
        job = self._find(job_id)
        record = job.context.record
        if record.phase is Phase.UNDO and job.context.stands_still:
            return self._go_on(job)
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
        if job.context.stands_still:
            self._go_on(job)
        else:
            job.context.interrupted.set()
            job.task.cancel()
        turned = asyncio.create_task(job.turned.wait())
        await asyncio.wait({turned, job.task}, return_when=asyncio.FIRST_COMPLETED)
        turned.cancel()
        return job.context.info(), True

    async def resume(self, job_id: str) -> tuple[JobInfo, bool]:
        """Go on with a job that failed where only forward is possible, or that stands still.

        False when it runs.
        """
        job = self._find(job_id)
        record = job.context.record
        if job.context.stands_still:
            return self._go_on(job)
        if record.phase is not Phase.ENDED:
            return job.context.info(), False
        if not _resumable(record):
            raise RejectedError(
                Code.WRONG_STATE,
                f"job {job_id} has ended, with nothing left to be gone on with",
                "give its command again",
            )
        self.check_free(record.data_sets)
        before = record.model_copy()
        record.phase, record.ends_as, record.ended_at = Phase.FORWARD, JobState.RUNNING, 0.0
        record.error, record.code, record.next_step = "", Code.OK, ""
        self._rewind(record)
        record.round += 1
        try:
            await job.context.save(once=True)
        except OSError as exc:
            for field in ("phase", "ends_as", "ended_at", "error", "code", "next_step", "step"):
                setattr(record, field, getattr(before, field))
            raise as_rejected(exc) from exc
        self._start(job)
        return job.context.info(), True

    def _go_on(self, job: Job) -> tuple[JobInfo, bool]:
        """Drive a job that stands still, as at the next start of the agent."""
        job.context.stand_still(None)
        self._rewind(job.context.record)
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
        self._driver.closed = True
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for job in self._jobs.values():
            job.context.stop()
            if job.task is not None:
                job.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- jobs in memory

    def _find(self, job_id: str) -> Job:
        lost = self._lost.get(job_id)
        if lost is not None:
            raise RejectedError(lost.code, lost.error, lost.next_step)
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
                if other.context.stands_still:
                    info = other.context.info()
                    raise RejectedError(
                        Code.IN_USE, f"job {record.id} has '{taken[0]}', {info.error}",
                        info.next_step,
                    )  # fmt: skip
                raise RejectedError(
                    Code.IN_USE,
                    f"job {record.id} is working on '{taken[0]}'",
                    f"wait for it with `trilun job show {record.id}`, or cancel it",
                )

    def _add(self, record: JobRecord, data_sets: list[DataSetConfig]) -> Job:
        steps = self._tables[record.kind].names
        job = Job(
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

    def _start(self, job: Job) -> None:
        name = f"job {job.context.record.id}"
        job.task = asyncio.create_task(self._driver.drive(job), name=name)
        job.task.add_done_callback(_tell_of_crash)

    async def _forget_old(self) -> None:
        ended = [j.context.record for j in self._jobs.values()]
        ended = [r for r in ended if r.phase is Phase.ENDED and not _resumable(r)]
        ended = sorted(ended, key=lambda r: r.ended_at)
        looks = [record for record in ended if record.kind is JobKind.LOOK]
        ended = [record for record in ended if record.kind is not JobKind.LOOK]
        for record in ended[:-MAX_ENDED] + looks[:-MAX_ENDED_LOOKS]:
            del self._jobs[record.id]
            self._ports.forget(record.id)
            await self._blocking.run(self._store.delete, record.id)


def _resumable(record: JobRecord) -> bool:
    """Whether it failed where only forward is possible: somebody still has to go on with it."""
    ended = record.phase is Phase.ENDED and record.ends_as is JobState.FAILED
    return ended and bool(record.facts.get(COMMITTED))


def _tell_of_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("job task crashed", exc_info=task.exception())
