"""The databases of all data sets of which this node is host 1.

Owns, durably, what was stopped for which job and how far a recovery is: an agent that dies in
one goes on with it at its next start. One thing at a time a data set. Must not mount or freeze.
Fails with HostError; how a recovery went is told by `show`, and never raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.config import DataSetConfig
from hostagent.errors import HostError
from hostagent.filesystem.mounts import find_mount
from hostagent.programs import Blocking
from hostagent.records import RecordError, RecordStore
from hostagent.recovery.config import DatabaseConfig
from hostagent.recovery.database import Clock, Database
from hostagent.recovery.recipe import Place
from hostagent.recovery.recipes import recipe_for

MOUNT_PATIENCE_S = 3600.0
POLL_S = 0.5

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Record(BaseModel):
    """What is kept of a data set."""

    model_config = ConfigDict(extra="forbid")

    job: str = ""
    check: bool = False
    running: bool = False
    concerned: list[str] = []
    """Whom the last recovery is about."""
    stopped: list[str] = []
    """Running before they were stopped for a job, and not started again."""
    databases: list[m.DatabaseInfo] = []


@dataclass(slots=True)
class _Own:
    """One data set's databases."""

    config: DataSetConfig
    databases: dict[str, Database]
    record: _Record = field(default_factory=_Record)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None


class DatabaseKeeper:
    """`start` before anything else, `stop` at the end."""

    def __init__(
        self,
        data_sets: Sequence[DataSetConfig],
        store: RecordStore,
        blocking: Blocking,
        clock: Clock,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._blocking = blocking
        self._clock = clock
        self._pause = pause
        self._own = {
            entry.name: _Own(entry, {one.name: self._make(entry, one) for one in entry.database})
            for entry in data_sets
            if entry.part == "host1"
        }

    def _make(self, data_set: DataSetConfig, config: DatabaseConfig) -> Database:
        place = Place(data_set.name, Path(data_set.mountpoint), config.path)
        recipe = recipe_for(config, place, self._blocking)
        return Database(config, recipe, self._blocking, self._clock, self._pause)

    async def start(self) -> None:
        """Read the records, and go on with recoveries that were under way."""
        for own in self._own.values():
            body = await self._blocking.run(self._store.load, own.config.name)
            if body is None:
                continue
            try:
                own.record = _Record.model_validate(body)
            except ValidationError as exc:
                raise RecordError(f"the record of {own.config.name}'s databases is odd") from exc
            for info in own.record.databases:
                if info.name in own.databases:
                    mine = own.databases[info.name]
                    mine.info = mine.info.model_copy(
                        update=info.model_dump(exclude={"name", "kind", "path", "also"})
                    )
            if own.record.running:
                self._begin(own)

    async def stop(self) -> None:
        """Interrupt recoveries; the next start goes on with them. Servers keep running."""
        for own in self._own.values():
            await self._interrupt(own)

    def show(self, data_set: str) -> m.RecoveryInfo:
        """How the databases of a data set are."""
        own = self._find(data_set)
        return m.RecoveryInfo(
            data_set=data_set,
            job=own.record.job,
            running=own.record.running,
            concerned=own.record.concerned,
            databases=[database.info for database in own.databases.values()],
        )

    # ------------------------------------------------------------ backup

    async def quiesce(self, data_set: str, ttl_s: float) -> list[m.DatabaseInfo]:
        """Prepare all for a freeze of at most `ttl_s`; all or none. Raises HostError."""
        own = self._find(data_set)
        wanted = [one for one in own.databases.values() if one.config.quiesce]
        # Those that keep their users waiting come last.
        wanted.sort(key=lambda one: one.holds_up)
        async with own.lock:
            try:
                return [await database.quiesce(ttl_s) for database in wanted]
            except BaseException:
                await self._resume(own)
                raise

    def still_quiesced(self, data_set: str) -> bool:
        """Whether everything that `quiesce` holds is still held."""
        return all(one.still_quiesced for one in self._find(data_set).databases.values())

    async def resume(self, data_set: str) -> None:
        """Undo `quiesce`; what could not be undone is logged, and raised at the end."""
        own = self._find(data_set)
        async with own.lock:
            failed = await self._resume(own)
        if failed is not None:
            raise failed

    async def _resume(self, own: _Own) -> HostError | None:
        failed: HostError | None = None
        for database in own.databases.values():
            try:
                await database.resume()
            except HostError as exc:
                _log.error("a database was not let go", database=database.info.name, why=str(exc))
                failed = exc
        return failed

    async def resume_left_over(self, data_set: str) -> None:
        """Undo what an agent that died in a backup may have left."""
        for database in self._find(data_set).databases.values():
            try:
                await database.resume_left_over()
            except HostError as exc:
                _log.error("a database was not let go", database=database.info.name, why=str(exc))

    # ------------------------------------------------------------ restore

    async def stop_all(self, data_set: str, job: str, *, force: bool) -> None:
        """Stop what runs and can be stopped, so that the file system can be unmounted.

        Raises HostError, with everything started again; with `force` it only logs.
        """
        own = self._find(data_set)
        if not own.databases:
            return
        await self._interrupt(own)
        async with own.lock:
            own.record.running = False
            for database in own.databases.values():
                if not database.can_start or not await database.running():
                    continue
                name = database.info.name
                own.record.stopped = sorted({*own.record.stopped, name})
                await self._save(own)
                _log.info("stopping a database", database=name, job=job)
                try:
                    await database.stop()
                except HostError as exc:
                    if not force:
                        await self._recover(own, job, check=False)
                        raise
                    _log.warning("not stopped, going on", database=name, why=exc.message)
            await self._save(own)

    async def recover(
        self, data_set: str, job: str | None, *, check: bool
    ) -> tuple[m.RecoveryInfo, bool]:
        """Begin to start and check databases; False when that is under way, or has been, for `job`.

        With `check` all of the data set, else those that were stopped.
        """
        own = self._find(data_set)
        async with own.lock:
            record = own.record
            same = job is not None and record.job == job and (record.check or not check)
            under_way = record.running and (same or job is None)
            if under_way or (same and not record.running and self._is_good(own)):
                return self.show(data_set), False
            if record.running:
                await self._interrupt(own)
            await self._recover(own, job or "", check=check)
            return self.show(data_set), True

    @staticmethod
    def _is_good(own: _Own) -> bool:
        """Whether the last recovery left nothing to be done."""
        failed = any(
            one.info.state is m.DatabaseState.FAILED
            for name, one in own.databases.items()
            if name in own.record.concerned
        )
        return not failed and not own.record.stopped

    async def _recover(self, own: _Own, job: str, *, check: bool) -> None:
        record = own.record
        record.job, record.check = job, check
        record.concerned = [name for name in own.databases if check or name in record.stopped]
        record.running = bool(record.concerned)
        await self._save(own)
        if record.running:
            self._begin(own)

    def _begin(self, own: _Own) -> None:
        name = f"recovery of {own.config.name}"
        own.task = asyncio.create_task(self._run(own), name=name)

    async def _run(self, own: _Own) -> None:
        record = own.record
        concerned = [own.databases[name] for name in record.concerned if name in own.databases]
        problem = ""
        try:
            await self._until_mounted(own)
            await asyncio.gather(*(one.recover(check=record.check) for one in concerned))
        except HostError as exc:
            problem = exc.message
        except Exception as exc:  # noqa: BLE001 - whoever waits for it must be told
            _log.exception("recovery failed unexpectedly", data_set=own.config.name)
            problem = f"internal error: {type(exc).__name__}: {exc}"
        for one in concerned:
            if problem:
                one.tell(
                    m.DatabaseState.FAILED,
                    error=problem,
                    next_step=f"then run `trilun db check {own.config.name}`",
                )
            info = one.info
            _log.info("recovered", database=info.name, state=info.state.value, error=info.error)
        # What did not start is no longer ours to start: its operator has been told.
        record.stopped = []
        record.running = False
        await self._save(own)

    async def _until_mounted(self, own: _Own) -> None:
        deadline_s = self._clock.monotonic() + MOUNT_PATIENCE_S
        while find_mount(own.config.mountpoint) is None:
            if self._clock.monotonic() > deadline_s:
                raise HostError(f"nothing is mounted at {own.config.mountpoint}")
            await self._pause(POLL_S)

    async def _interrupt(self, own: _Own) -> None:
        task, own.task = own.task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _save(self, own: _Own) -> None:
        # A recovery that ends saves beside a command: one after the other, the later facts last.
        async with own.saving:
            own.record.databases = [database.info for database in own.databases.values()]
            body: dict[str, Any] = own.record.model_dump(mode="json")
            await self._blocking.run(self._store.save, own.config.name, body)

    def _find(self, data_set: str) -> _Own:
        own = self._own.get(data_set)
        if own is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"this node is not host 1 of a data set '{data_set}'",
                "ask the data set's host 1",
            )
        return own
