"""A world, and a kit that runs jobs in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.jobs.driver import Driver
from hostagent.programs import Blocking
from tests.unit.hostagent.kit import Kit
from tests.unit.hostagent.world import KilledError, World


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    blocking = Blocking(2)
    yield blocking
    blocking.close()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def kit(world: World, tmp_path: Path, blocking: Blocking) -> Kit:
    return Kit(world, tmp_path / "jobs", blocking)


@pytest.fixture(autouse=True)
def quiet_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed engine's task would otherwise end the test's loop, as BaseExceptions do."""
    original = Driver.drive

    async def drive(self: Driver, job: object) -> None:
        try:
            await original(self, job)  # type: ignore[arg-type]
        except KilledError as exc:
            raise DeathError(exc) from exc

    class DeathError(Exception):
        pass

    real = asyncio.gather

    async def gather(*tasks: object, return_exceptions: bool = False) -> list[object]:
        results = await real(*tasks, return_exceptions=return_exceptions)  # type: ignore[call-overload]
        return [r.args[0] if isinstance(r, DeathError) else r for r in results]

    def taken_note(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()

    monkeypatch.setattr("hostagent.jobs.engine._tell_of_crash", taken_note)
    monkeypatch.setattr(Driver, "drive", drive)
    monkeypatch.setattr(asyncio, "gather", gather)
