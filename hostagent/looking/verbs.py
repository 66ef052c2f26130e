"""The verbs of looking: `fs.list`, `fs.digest` and `fs.extents` of host 1, `look.*` of host 2.

Owns the table from verb to answer. Must not know how anything is found. Fails by raising
RejectedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from controller.api import messages as m
from controller.api.codes import Verdict
from controller.api.messages import JobState, Request
from controller.service.bus import Answer
from hostagent.jobs.engine import JobEngine
from hostagent.looking.desk import LookDesk
from hostagent.looking.first import FirstFiles
from hostagent.looking.rooms import Rooms


class LookVerbs:
    """Answers who looks."""

    def __init__(self, files: FirstFiles, desk: LookDesk, rooms: Rooms, jobs: JobEngine) -> None:
        self._files = files
        self._desk = desk
        self._rooms = rooms
        self._jobs = jobs
        self.verbs: dict[str, Callable[[Any, Request], Awaitable[Answer]]] = {
            "fs.list": self._fs_list,
            "fs.digest": self._fs_digest,
            "fs.extents": self._fs_extents,
            "look.list": self._look_list,
            "look.read": self._look_read,
            "look.diff": self._look_diff,
            "look.close": self._look_close,
        }

    async def _fs_list(self, params: m.FsList, _request: Request) -> Answer:
        return Answer(result=await self._files.list(params))

    async def _fs_digest(self, params: m.FsDigest, _request: Request) -> Answer:
        return Answer(result=await self._files.digest(params))

    async def _fs_extents(self, params: m.FsExtents, _request: Request) -> Answer:
        return Answer(result=await self._files.extents(params))

    async def _look_list(self, params: m.LookList, _request: Request) -> Answer:
        return Answer(result=await self._desk.list(params))

    async def _look_read(self, params: m.LookRead, _request: Request) -> Answer:
        return Answer(result=await self._desk.read(params))

    async def _look_diff(self, params: m.LookDiff, _request: Request) -> Answer:
        return Answer(result=await self._desk.diff(params))

    async def _look_close(self, params: m.Named, _request: Request) -> Answer:
        before = self._jobs.show(params.name)
        if before.state is not JobState.RUNNING:
            return Answer(Verdict.NO_OP, "it is closed already", result=before)
        if not self._rooms.close(params.name):
            # Not open yet, or on its way out.
            await self._jobs.cancel(params.name)
        info = await self._jobs.wait(params.name)
        return Answer(Verdict.ACCEPTED, "the view is closed", result=info)
