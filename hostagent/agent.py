"""The agent's commands: from a verb and its parameters to an answer.

Owns the table of verbs an agent answers. Must not touch the host itself: that is done by the
parts it is given. Fails by raising RejectedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import Params, Request
from controller.api.verbs import Verb
from controller.service.bus import Answer
from hostagent.config import AgentConfig, DataSetConfig
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.jobs.brief import brief
from hostagent.jobs.dropping import drop_undo, group_restore_params, undo_params
from hostagent.jobs.engine import JobEngine
from hostagent.jobs.members import members_of
from hostagent.jobs.ports import Nodes
from hostagent.jobs.slots import choose_undo, newest_first
from hostagent.jobs.survey import survey
from hostagent.looking.verbs import LookVerbs
from hostagent.recovery.keeper import DatabaseKeeper


class Agent:
    """Answers commands; `handle` is a bus `Handler`."""

    def __init__(
        self,
        config: AgentConfig,
        first: FirstVolumeKeeper,
        databases: DatabaseKeeper,
        jobs: JobEngine,
        nodes: Nodes,
        looking: LookVerbs,
    ) -> None:
        self._config = config
        self._nodes = nodes
        self._first = first
        self._databases = databases
        self._jobs = jobs
        self._verbs: dict[str, Callable[[Any, Request], Awaitable[Answer]]] = {
            "fs.show": self._fs_show,
            "fs.freeze": self._fs_freeze,
            "fs.thaw": self._fs_thaw,
            "fs.release": self._fs_release,
            "fs.reclaim": self._fs_reclaim,
            "backup.list": self._backup_list,
            "db.show": self._db_show,
            "db.recover": self._db_recover,
            "job.backup": self._job_backup,
            "job.backup_group": self._job_backup_group,
            "job.restore": self._job_restore,
            "job.restore_group": self._job_restore_group,
            "job.undo": self._job_undo,
            "undo.drop": self._undo_drop,
            "job.look": self._job_look,
            "job.list": self._job_list,
            "job.show": self._job_show,
            "job.cancel": self._job_cancel,
            "job.resume": self._job_resume,
            **looking.verbs,
        }

    @property
    def verbs(self) -> frozenset[str]:
        """The verbs this agent answers."""
        return frozenset(self._verbs)

    async def handle(self, verb: Verb, params: Params, request: Request) -> Answer:
        """Carry one request out; raises RejectedError to refuse."""
        return await self._verbs[verb.name](params, request)

    async def _fs_show(self, params: m.DataSetNamed, _request: Request) -> Answer:
        return Answer(result=await self._first.show(params.data_set))

    async def _fs_freeze(self, params: m.FsFreeze, _request: Request) -> Answer:
        already = await self._first.still_frozen(params.data_set)
        await self._first.freeze({params.data_set: params.ttl_s})
        info = await self._first.show(params.data_set)
        return _answer(
            info, not already, f"frozen for at most {params.ttl_s:g} s", "frozen already"
        )

    async def _fs_thaw(self, params: m.DataSetNamed, _request: Request) -> Answer:
        elapsed_s = await self._first.thaw(params.data_set)
        info = await self._first.show(params.data_set)
        info = info.model_copy(update={"elapsed_s": elapsed_s})
        return _answer(info, elapsed_s > 0, f"thawed after {elapsed_s:.3f} s", "it is not frozen")

    async def _fs_release(self, params: m.FsRelease, _request: Request) -> Answer:
        info, changed = await self._first.release(params.data_set, params.job, force=params.force)
        return _answer(info, changed, f"released for {params.job}", "released already")

    async def _fs_reclaim(self, params: m.FsReclaim, _request: Request) -> Answer:
        info, changed = await self._first.reclaim(params.data_set, params.job)
        return _answer(info, changed, "attached again", "it was not released")

    async def _backup_list(self, params: m.DataSetNamed, _request: Request) -> Answer:
        data_set = self._known(params.data_set)
        slots = await survey(self._nodes, data_set)
        return Answer(result=m.BackupList(data_set=data_set.name, backups=newest_first(slots)))

    async def _db_show(self, params: m.DataSetNamed, _request: Request) -> Answer:
        return Answer(result=self._databases.show(params.data_set))

    async def _db_recover(self, params: m.DbRecover, _request: Request) -> Answer:
        info, began = await self._databases.recover(params.data_set, params.job, check=params.check)
        return _answer(info, began, "the recovery has begun", "the recovery has begun already")

    async def _job_backup(self, params: m.BackupStart, request: Request) -> Answer:
        data_set = self._data_set(params.data_set, "host1")
        job_params = {
            "label": params.label,
            "quiesce": params.quiesce,
            "keep": params.keep,
            "split_remote": params.split_remote,
            "quick": params.quick,
        }
        info, new = await self._jobs.begin(m.JobKind.BACKUP, data_set, request.id, job_params)
        return _answer(info, new, f"job {info.id} has begun", f"job {info.id} is that request's")

    async def _job_backup_group(self, params: m.GroupBackupStart, request: Request) -> Answer:
        members = await self._members(params.node, params.group, "host1")
        job_params = params.model_dump(mode="json", exclude={"group"})
        info, new = await self._jobs.begin(
            m.JobKind.GROUP_BACKUP, members, request.id, job_params, params.group
        )
        return _answer(info, new, f"job {info.id} has begun", f"job {info.id} is that request's")

    async def _job_restore_group(self, params: m.GroupRestoreStart, request: Request) -> Answer:
        members = await self._members(params.node, params.group, "host2")
        job_params = group_restore_params(params)
        info, new = await self._jobs.begin(
            m.JobKind.GROUP_RESTORE, members, request.id, job_params, params.group
        )
        return _answer(info, new, f"job {info.id} has begun", f"job {info.id} is that request's")

    async def _members(
        self, node: str, group: str, part: Literal["host1", "host2"]
    ) -> list[DataSetConfig]:
        """The data sets of a group of that controller, all of them this host's."""
        found = await self._nodes.call(node, "group.show", m.Named(name=group), None)
        assert isinstance(found, m.GroupInfo)
        return members_of(found, self._config.data_set, self._config.node, part)

    async def _job_restore(self, params: m.RestoreStart, request: Request) -> Answer:
        data_set = self._data_set(params.data_set, "host2")
        job_params: dict[str, Any] = {
            "paths": params.paths,
            "to": params.to,
            "conflict": None if params.conflict is None else params.conflict.value,
            "dry_run": params.dry_run,
            "force": params.force,
            "from_backup": params.from_backup,
            "verify": params.verify,
            "discard_writes": params.discard_writes,
        }
        if params.whole:
            undo = params.undo or m.Undo.REQUIRED
            job_params |= {"undo": undo.value, "keep": params.keep}
        kind = m.JobKind.WHOLE if params.whole else m.JobKind.RESTORE
        info, new = await self._jobs.begin(kind, data_set, request.id, job_params)
        return _answer(info, new, f"job {info.id} has begun", f"job {info.id} is that request's")

    async def _job_undo(self, params: m.UndoStart, request: Request) -> Answer:
        data_set = self._data_set(params.data_set, "host2")
        slot = choose_undo(await survey(self._nodes, data_set), params.job)
        job_params = undo_params(slot, params, self._jobs.list_jobs())
        info, new = await self._jobs.begin(m.JobKind.WHOLE, data_set, request.id, job_params)
        return _answer(info, new, f"job {info.id} has begun", f"job {info.id} is that request's")

    async def _undo_drop(self, params: m.UndoDrop, request: Request) -> Answer:
        data_set = self._data_set(params.data_set, "host2")
        self._jobs.check_free([data_set.name])
        slots, freed = await drop_undo(self._nodes, data_set, params.job, request.id)
        return _answer(slots, bool(freed), f"'{freed}' is free", f"nothing is kept of {params.job}")

    async def _job_look(self, params: m.LookStart, request: Request) -> Answer:
        data_set = self._data_set(params.data_set, "host2")
        job_params = {"from_backup": params.from_backup}
        info, new = await self._jobs.begin(m.JobKind.LOOK, data_set, request.id, job_params)
        return _answer(info, new, f"job {info.id} has begun", f"job {info.id} is that request's")

    async def _job_list(self, _params: m.Empty, _request: Request) -> Answer:
        return Answer(result=m.JobList(jobs=[brief(info) for info in self._jobs.list_jobs()]))

    async def _job_show(self, params: m.Named, _request: Request) -> Answer:
        return Answer(result=self._jobs.show(params.name))

    async def _job_cancel(self, params: m.Named, _request: Request) -> Answer:
        info, changed = await self._jobs.cancel(params.name)
        return _answer(info, changed, "the job is being undone", f"the job is {info.state.value}")

    async def _job_resume(self, params: m.Named, _request: Request) -> Answer:
        info, changed = await self._jobs.resume(params.name)
        return _answer(info, changed, "the job goes on", "the job is running")

    def _known(self, name: str) -> DataSetConfig:
        data_set = self._config.find(name)
        if data_set is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"{self._config.node} has no data set '{name}'",
                "see `trilun status` for the agents and their data sets",
            )
        return data_set

    def _data_set(self, name: str, part: str) -> DataSetConfig:
        data_set = self._known(name)
        if data_set.part != part:
            other = data_set.host1 if part == "host1" else data_set.host2
            raise RejectedError(
                Code.WRONG_STATE,
                f"{self._config.node} is {data_set.part} of '{name}', this is done by {part}",
                f"ask {other}",
            )
        return data_set


def _answer(info: m.Info, changed: bool, done: str, same: str) -> Answer:
    if changed:
        return Answer(Verdict.ACCEPTED, done, result=info)
    return Answer(Verdict.NO_OP, same, result=info)
