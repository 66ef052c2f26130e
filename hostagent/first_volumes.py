"""The first volumes on host 1: mounted, frozen for a moment, or released for a restore.

Owns, durably, for which job a data set's volume is released and whether it is frozen. One
operation a data set at a time. Must not mount what is released, and never makes a file system.
A volume whose controller is away is tried again in the background; `detail` says why it isn't
there. Fails with RejectedError or HostError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import structlog

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.attach.attacher import address_of
from hostagent.config import DataSetConfig
from hostagent.errors import FinalError, HostError
from hostagent.filesystem.freezing import Freeze, thaw, write_out
from hostagent.filesystem.mounts import find_mount
from hostagent.filesystem.stopped import as_stopped
from hostagent.filesystem.volumes import HostVolumes, MountPlan
from hostagent.jobs.ports import Nodes
from hostagent.jobs.retry import UNANSWERED, wait_s
from hostagent.programs import Blocking
from hostagent.records import RecordError, RecordStore
from hostagent.recovery.keeper import DatabaseKeeper

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _First:
    """One data set's volume on this host."""

    config: DataSetConfig
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    released_for: str = ""
    remount: bool = True
    """Whether it was mounted when it was released."""
    frozen: bool = False
    freeze: Freeze | None = None
    detail: str = ""
    task: asyncio.Task[None] | None = None

    @property
    def tried_for(self) -> bool:
        """Whether mounting it is tried again and again."""
        return self.task is not None and not self.task.done()

    @property
    def key(self) -> str:
        return f"first-{self.config.name}"


class FirstVolumeKeeper:
    """All data sets of which this node is host 1; implements `jobs.ports.FirstVolumes`."""

    def __init__(
        self,
        data_sets: list[DataSetConfig],
        volumes: HostVolumes,
        databases: DatabaseKeeper,
        store: RecordStore,
        blocking: Blocking,
        nodes: Nodes,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._volumes = volumes
        self._databases = databases
        self._store = store
        self._blocking = blocking
        self._nodes = nodes
        self._pause = pause
        self._firsts = {entry.name: _First(entry) for entry in data_sets if entry.part == "host1"}

    @property
    def keys(self) -> set[str]:
        """Under which names the volumes are mounted."""
        return {first.key for first in self._firsts.values()}

    async def start(self) -> None:
        """Thaw what a dead agent left frozen, then mount in the background what belongs here."""
        for first in self._firsts.values():
            record = await self._blocking.run(self._store.load, first.config.name)
            if record is not None:
                if not isinstance(record.get("released_for"), str):
                    raise RecordError(f"the record of data set {first.config.name} is odd")
                first.released_for = record["released_for"]
                first.remount = bool(record.get("remount", True))
                first.frozen = bool(record.get("frozen", False))
            if first.frozen:
                await self._thaw_left_over(first)
            if first.config.mount_at_start and not first.released_for:
                self._mount_soon(first)

    async def stop(self) -> None:
        """Thaw, then unmount and detach whatever isn't busy; busy file systems stay mounted."""
        for first in self._firsts.values():
            if first.task is not None:
                first.task.cancel()
                await asyncio.gather(first.task, return_exceptions=True)
            async with first.lock:
                await self._thaw(first)
                try:
                    await self._blocking.run(self._volumes.unmount, first.key)
                except HostError as exc:
                    _log.warning("left as it is", data_set=first.config.name, why=exc.message)

    async def show(self, data_set: str) -> m.HostFs:
        """What this host has of a data set."""
        return await self._show(self._find(data_set))

    async def release(self, data_set: str, job: str, *, force: bool) -> tuple[m.HostFs, bool]:
        """Stop databases, unmount, detach for a job; False when it was released for it already.

        Raises FsBusyError naming the holders, RejectedError when another job has it.
        """
        first = self._find(data_set)
        async with first.lock:
            again = first.released_for == job
            if first.released_for and not again:
                raise _released_for_another(first)
            if first.freeze is not None and first.freeze.holds:
                raise RejectedError(
                    Code.IN_USE, f"'{data_set}' is frozen", "wait until the backup has thawed it"
                )
            if not again:
                # Said before it is done: an agent that dies in between must not mount it again.
                mounted = await self._mounted(first) or first.tried_for
                first.remount = mounted or first.config.mount_at_start
                first.released_for = job
                await self._save(first)
            try:
                await self._databases.stop_all(data_set, job, force=force)
                await self._blocking.run(self._volumes.unmount, first.key, force=force)
            except (HostError, OSError) as exc:
                stopped = as_stopped(exc, first.config.mountpoint, first.config.host1)
                await self._take_back(first, job, lost=isinstance(stopped or exc, FinalError))
                if stopped is not None:
                    raise stopped from exc
                raise
            return await self._show(first), not again

    async def reclaim(self, data_set: str, job: str) -> tuple[m.HostFs, bool]:
        """Attach and mount again after a job; False when it wasn't released.

        Where that fails it is tried again, whatever becomes of the job: the volume is the host's
        from here on.
        """
        first = self._find(data_set)
        async with first.lock:
            released = bool(first.released_for)
            if released and first.released_for != job:
                raise _released_for_another(first)
            try:
                if (released and first.remount) or first.tried_for:
                    await self._mount(first)
            except (RejectedError, OSError) as exc:
                self._mount_soon(first, exc)
                await self._given_back(first)
                raise
            await self._given_back(first)
            return await self._show(first), released

    async def freeze(self, wanted: dict[str, float]) -> dict[str, list[m.DatabaseInfo]]:
        """Prepare the databases of these data sets, then freeze all of them; all or none.

        `wanted` has the seconds each freeze may last. Does nothing while an earlier freeze of
        all of them still holds.
        """
        firsts = [self._find(name) for name in sorted(wanted)]
        async with AsyncExitStack() as locks:
            for first in firsts:
                await locks.enter_async_context(first.lock)
            if all(first.freeze is not None and first.freeze.holds for first in firsts):
                return {
                    f.config.name: self._databases.show(f.config.name).databases for f in firsts
                }
            for first in firsts:
                if first.freeze is not None:
                    await self._thaw(first)
                await self._check_mounted(first)
            for first in firsts:
                first.frozen = True
                await self._save(first)
            try:
                return await self._begin_freeze(firsts, wanted)
            except (HostError, OSError) as exc:
                await _each(firsts, self._thaw)
                for first in firsts:
                    if len(firsts) == 1 or str(first.config.mountpoint) in str(exc):
                        self.raise_if_stopped(first.config.name, exc)
                raise

    async def _check_mounted(self, first: _First) -> None:
        if not await self._mounted(first):
            raise HostError(
                f"'{first.config.name}' is not mounted at {first.config.mountpoint}"
                + (f": {first.detail}" if first.detail else ""),
                "mount it, or take the backup without quiescing",
                Code.WRONG_STATE,
            )

    async def _begin_freeze(
        self, firsts: list[_First], wanted: dict[str, float]
    ) -> dict[str, list[m.DatabaseInfo]]:
        # The freeze writes out what is dirty, within its time and while databases are held.
        run = self._blocking.run
        await asyncio.gather(*(run(write_out, first.config.mountpoint) for first in firsts))
        # A database may write to another's file system meanwhile: none is frozen before the last
        # of them is prepared.
        prepared: dict[str, list[m.DatabaseInfo]] = {}
        for first in firsts:
            name = first.config.name
            prepared[name] = await self._databases.quiesce(name, wanted[name])
        for first in firsts:
            ttl_s = wanted[first.config.name]
            first.freeze = await run(Freeze.begin, first.config.mountpoint, ttl_s)
        if not all(self._databases.still_quiesced(name) for name in prepared):
            raise HostError(
                "a database did not stay prepared until the freeze",
                "look at its server's log, or take the backup with --no-quiesce",
            )
        return prepared

    async def still_frozen(self, data_set: str) -> bool:
        """Whether the freeze has held until now."""
        freeze = self._find(data_set).freeze
        return freeze is not None and await self._blocking.run(freeze.lasts)

    async def thaw(self, data_set: str) -> float:
        """Thaw; how long it was frozen, in seconds, 0 when it wasn't."""
        first = self._find(data_set)
        async with first.lock:
            return await self._thaw(first)

    def raise_if_stopped(self, data_set: str, exc: RejectedError | OSError) -> None:
        """Raise HostError that names mounting anew, where the error is of that kind."""
        config = self._find(data_set).config
        stopped = as_stopped(exc, config.mountpoint, config.host1)
        if stopped is not None:
            raise stopped from exc

    # -- with the lock held

    async def _take_back(self, first: _First, job: str, *, lost: bool) -> None:
        """A release has failed: all is as it was, or will be as soon as it can be mounted.

        Where writes are lost, its operator looks at it before it is mounted anew.
        """
        if first.remount and not lost and not await self._mounted(first):
            try:
                await self._mount(first)
            except (RejectedError, OSError) as exc:
                self._mount_soon(first, exc)
        await self._given_back(first)
        await self._databases.recover(first.config.name, job, check=False)

    async def _given_back(self, first: _First) -> None:
        if first.released_for:
            first.released_for = ""
            await self._save(first)

    async def _thaw(self, first: _First) -> float:
        elapsed_s = 0.0
        try:
            if first.freeze is not None:
                elapsed_s = await self._blocking.run(first.freeze.end)
                first.freeze = None
        finally:
            await self._databases.resume(first.config.name)
        if first.frozen:
            first.frozen = False
            await self._save(first)
        return elapsed_s

    async def _thaw_left_over(self, first: _First) -> None:
        mountpoint = first.config.mountpoint
        if find_mount(mountpoint) is not None and await self._blocking.run(thaw, mountpoint):
            _log.warning("thawed what an earlier agent left frozen", data_set=first.config.name)
        await self._databases.resume_left_over(first.config.name)
        first.frozen = False
        await self._save(first)

    async def _mount(self, first: _First) -> None:
        config = first.config
        try:
            volume = await self._nodes.call(
                config.primary, "volume.show", m.Named(name=config.first), None
            )
        except RejectedError as exc:
            if exc.code not in UNANSWERED:
                raise
            # Our own answer is one: who asks us again has to ask anew.
            raise HostError(exc.message, exc.next_step, Code.NO_PEER) from exc
        assert isinstance(volume, m.VolumeInfo)
        if volume.access is not m.AccessInfo.READ_WRITE:
            raise HostError(
                f"volume '{volume.name}' on {volume.node} is {volume.access.value}",
                f"look at `trilun volume show {volume.name}`",
                Code.WRONG_STATE,
            )
        plan = MountPlan(
            address_of(volume), config.filesystem, config.mountpoint, config.mount_with
        )
        await self._blocking.run(self._volumes.mount, first.key, plan)
        first.detail = ""

    def _mount_soon(self, first: _First, failed: Exception | None = None) -> None:
        """Try in the background until it is mounted, or released."""
        if failed is not None:
            first.detail = str(failed)
            _log.warning("not mounted yet", data_set=first.config.name, why=first.detail)
        if not first.tried_for:
            name = f"mount {first.config.name}"
            first.task = asyncio.create_task(self._until_mounted(first), name=name)

    async def _until_mounted(self, first: _First) -> None:
        attempts = 0
        while True:
            async with first.lock:
                if first.released_for:
                    return
                try:
                    await self._mount(first)
                except (RejectedError, OSError) as exc:
                    first.detail = str(exc)
                else:
                    _log.info("mounted", data_set=first.config.name)
                    return
            attempts += 1
            _log.warning("not mounted yet", data_set=first.config.name, why=first.detail)
            await self._pause(wait_s(attempts))

    async def _mounted(self, first: _First) -> bool:
        return (
            first.key in await self._blocking.run(self._volumes.keys)
            and find_mount(first.config.mountpoint) is not None
        )

    async def _show(self, first: _First) -> m.HostFs:
        freeze = first.freeze
        frozen = freeze is not None and freeze.holds
        return m.HostFs(
            data_set=first.config.name,
            mounted=await self._mounted(first),
            frozen=frozen,
            released_for=first.released_for,
            mountpoint=str(first.config.mountpoint),
            elapsed_s=freeze.elapsed_s if freeze is not None and frozen else 0.0,
        )

    async def _save(self, first: _First) -> None:
        body = {
            "released_for": first.released_for,
            "remount": first.remount,
            "frozen": first.frozen,
        }
        await self._blocking.run(self._store.save, first.config.name, body)

    def _find(self, data_set: str) -> _First:
        first = self._firsts.get(data_set)
        if first is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"this node is not host 1 of a data set '{data_set}'",
                "ask the data set's host 1",
            )
        return first


async def _each(firsts: list[_First], work: Callable[[_First], Awaitable[float]]) -> None:
    """Do it for all, whatever becomes of one; raises the first error then."""
    outcomes = await asyncio.gather(*(work(first) for first in firsts), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _released_for_another(first: _First) -> RejectedError:
    return RejectedError(
        Code.IN_USE,
        f"'{first.config.name}' is released for job {first.released_for}",
        f"wait for it with `trilun job wait {first.released_for}`; where there is no such job any "
        f"more: `trilun fs reclaim {first.config.name} --job {first.released_for}`",
    )
