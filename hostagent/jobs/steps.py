"""What a table of steps is made of.

Owns the shape only; the tables themselves stand in `backup` and `restore`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from controller.api.messages import JobKind
from hostagent.jobs.context import JobContext

StepWork = Callable[[JobContext], Awaitable[None]]


class EndEarlyError(Exception):
    """Raised by a step when the job has what it was for: undo everything and end DONE."""


class ContinueAsError(Exception):
    """Raised by a step when the job goes on as one of another kind, at a step of that kind.

    What the steps before have left must be what that kind's have left by then.
    """

    def __init__(self, kind: JobKind, step: str, why: str) -> None:
        super().__init__(why)
        self.kind, self.step, self.why = kind, step, why


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `run` and `undo` are idempotent: each may be run again after a crash."""

    name: str
    run: StepWork
    undo: StepWork | None = None
    resume_at: str | None = None
    """After a crash in this step, the job goes on at that earlier one."""


@dataclass(frozen=True, slots=True)
class JobTable:
    """The steps of one kind of job, in order."""

    steps: tuple[Step, ...]
    ahead_of_undo: StepWork | None = None
    """What can't wait for the undo of the last steps, which may take long. Tried for a short time
    only: the undo of its own step does it again."""

    @property
    def names(self) -> list[str]:
        """The steps' names, as operators see them."""
        return [step.name for step in self.steps]
