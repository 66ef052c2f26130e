"""The verbs of consistency groups.

Owns their translation into calls on `controller.groups`, `controller.group_resync` and
`controller.keeping`. Must not hold state. Refuses with RejectedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from controller.api import messages as m
from controller.api.codes import Verdict
from controller.group_resync import resync
from controller.groups import Groups
from controller.keeping import Keeping
from controller.outcome import Outcome, done, no_op


class GroupCommands:
    """The verbs of one node's groups, and of the backups taken of them."""

    def __init__(self, groups: Groups, keeping: Keeping) -> None:
        self._groups = groups
        self._keeping = keeping
        self.verbs: dict[str, Callable[[Any], Awaitable[Outcome]]] = {
            "group.create": self._create,
            "group.list": self._list,
            "group.show": self._show,
            "group.split": self._split,
            "group.resync": self._resync,
            "group.mark": self._mark,
            "backup.settle": self._settle,
            "group.delete": self._delete,
        }

    def _info(self, name: str) -> m.GroupInfo:
        return self._groups.info(self._groups.get(name))

    async def _create(self, params: m.GroupCreate) -> Outcome:
        made = await self._groups.create(params)
        info = self._info(params.name)
        if not made:
            return no_op(f"group '{params.name}' exists already", info)
        return done(f"group '{params.name}' has {len(info.pairs)} pairs", info)

    async def _list(self, _params: m.Empty) -> Outcome:
        groups = [self._groups.info(group) for group in self._groups.all()]
        return done(f"{len(groups)} groups", m.GroupList(groups=groups))

    async def _show(self, params: m.Named) -> Outcome:
        return done("", self._info(params.name))

    async def _split(self, params: m.GroupSplit) -> Outcome:
        verdict = await self._groups.split(params)
        text = "is split already" if verdict is Verdict.NO_OP else "was split at one instant"
        return Outcome(verdict, f"group '{params.name}' {text}", self._info(params.name))

    async def _resync(self, params: m.GroupResync) -> Outcome:
        verdict = await resync(self._groups, params)
        text = "mirrors already" if verdict is Verdict.NO_OP else "is being resynchronised"
        return Outcome(verdict, f"group '{params.name}' {text}", self._info(params.name))

    async def _mark(self, params: m.GroupMark) -> Outcome:
        await self._groups.mark(params)
        text = f"behind group '{params.name}' {len(params.marks)} pairs were split at one instant"
        return done(text, self._info(params.name))

    async def _settle(self, params: m.BackupSettle) -> Outcome:
        verdict = await self._keeping.settle(params)
        text = "are one backup" if params.keep else "follow again"
        result = m.BackupSettled(
            instant=params.instant, states=self._keeping.states(params.local_pairs)
        )
        return Outcome(verdict, f"{', '.join(params.local_pairs)} {text}", result)

    async def _delete(self, params: m.Named) -> Outcome:
        group = self._groups.find(params.name)
        if group is None:
            return no_op(f"there is no group '{params.name}'", None)
        info = self._groups.info(group)
        await self._groups.delete(group)
        return done(f"group '{params.name}' is forgotten; its pairs stay", info)
