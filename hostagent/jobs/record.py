"""A job as it is kept on disk.

Owns the shape of a job's record and what operators see of it. Must not decide what happens next.
"""

from __future__ import annotations

import enum
from typing import Any

from pydantic import BaseModel, ConfigDict

from controller.api.codes import Code
from controller.api.messages import (
    JobInfo,
    JobKind,
    JobState,
    Name,
    Progress,
    Receipt,
    RestorePlan,
)

RECORD_VERSION = 1


class Phase(enum.StrEnum):
    """Which way a job moves through its table."""

    FORWARD = "forward"
    UNDO = "undo"
    ENDED = "ended"


class JobRecord(BaseModel):
    """Everything needed to go on with a job after a crash. Saved before each step."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    version: int = RECORD_VERSION
    id: Name
    kind: JobKind
    data_set: Name
    """Or the group of data sets."""
    members: list[Name] = []
    """The data sets of a group."""
    params: dict[str, Any]
    started_at: float
    phase: Phase = Phase.FORWARD
    step: int = 0
    """Index of the step under way, or of the one to be undone."""
    ends_as: JobState = JobState.RUNNING
    """What the job becomes when the undo is through."""
    facts: dict[str, Any] = {}
    """What steps found out and later ones need; each kind of job has its own."""
    round: int = 0
    """How often the job went back to an earlier step: every command is a new request then."""
    attempts: dict[str, int] = {}
    """How often a command was rejected: a new attempt is a new request."""
    error: str = ""
    code: Code = Code.OK
    next_step: str = ""
    message: str = ""
    plan: RestorePlan | None = None
    receipt: Receipt | None = None
    step_s: dict[str, float] = {}
    """How long each step took, all attempts and lives together."""
    ended_at: float = 0.0

    @property
    def data_sets(self) -> list[Name]:
        """The data sets that the job has for itself."""
        return self.members or [self.data_set]

    @property
    def state(self) -> JobState:
        """What operators see."""
        return self.ends_as if self.phase is Phase.ENDED else JobState.RUNNING

    def info(self, node: str, steps: list[str], progress: Progress | None = None) -> JobInfo:
        """The job as it is published."""
        return JobInfo(
            id=self.id,
            kind=self.kind,
            data_set=self.data_set,
            data_sets=self.members,
            node=node,
            state=self.state,
            step=steps[min(self.step, len(steps) - 1)],
            steps=steps,
            started_at=self.started_at,
            message=self.message,
            progress=progress if self.phase is not Phase.ENDED else None,
            error=self.error,
            code=self.code,
            next_step=self.next_step,
            plan=self.plan,
            receipt=self.receipt,
        )
