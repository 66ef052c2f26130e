"""Runs jobs in a world of `world.py`, over as many lives of the agent as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from controller.api import messages as m
from controller.api.messages import JobKind
from controller.api.messages import PairState as P
from hostagent.jobs.engine import JobEngine
from hostagent.programs import Blocking
from tests.unit.hostagent.world import DATA_SET, KilledError, World

ALL = {"ds": DATA_SET}


def restore_params(
    *paths: str, dry_run: bool = False, conflict: str = "overwrite", to: str = ""
) -> dict[str, object]:
    return {
        "paths": list(paths) or ["a"],
        "to": to,
        "conflict": conflict,
        "dry_run": dry_run,
        "force": False,
        "discard_writes": True,
    }


class Kit:
    """Runs jobs in one world, over as many lives of the agent as it takes."""

    def __init__(self, world: World, directory: Path, blocking: Blocking) -> None:
        self.world, self.directory, self.blocking = world, directory, blocking
        self.lives = 0

    def engine(self) -> JobEngine:
        self.lives += 1
        return self.world.engine(self.directory, self.blocking)

    async def run(self, kind: JobKind, params: dict[str, object]) -> m.JobInfo:
        """Begin a job and see it through, with a new engine after every death."""
        engine = self.engine()
        info, new = await engine.begin(kind, DATA_SET, "request-1", params)
        assert new
        return await self.see_through(engine, info.id)

    async def see_through(self, engine: JobEngine, job_id: str) -> m.JobInfo:
        while True:
            task = engine._jobs[job_id].task
            if task is None:
                return engine.show(job_id)
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(result, KilledError):
                assert result is None, result
                return engine.show(job_id)
            assert self.lives < 200
            engine = self.engine()
            await engine.load(ALL)


def untouched(world: World) -> None:
    """Everything is as it was before the restore."""
    assert world.first == {"a": "bad", "b": "new"}
    assert world.second == world.first
    assert world.third == {"a": "good", "b": "old"}
    assert not world.views
    assert not world.mounted
    assert world.first_mounted
    assert world.released_for == ""
    assert world.remote is P.PAIR


def once(moment: str) -> Callable[[str], bool]:
    """Kill at the first such moment only."""
    left = [1]

    def kill(what: str) -> bool:
        if what == moment and left:
            left.pop()
            return True
        return False

    return kill
