"""One data set's part of a job of several, as if it were a job of its own.

Owns what a step of a single data set's job has in its hands here: its own facts and request ids,
the parameters that concern it, and saving, which is the whole job's. So the steps of `whole`
serve a group as they are. What only the whole job may decide, a member decides nothing of: it
commits to nothing. Fails as the steps do; what failed is named by its data set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from controller.api import messages as m
from controller.api.errors import RejectedError
from hostagent.errors import FinalError, as_rejected
from hostagent.jobs.context import JobContext
from hostagent.jobs.retry import TRANSIENT


class Member(JobContext):
    """The surroundings of one part."""

    def __init__(self, part: JobContext, told: dict[str, m.Progress]) -> None:
        vars(self).update(vars(part))
        self._part = part
        self._told = told
        # Facts and attempts are the whole record's own: what a step notes is saved with it.
        self.record = part.record.model_copy(update={"facts": part.facts, "plan": None})

    @property
    def facts(self) -> dict[str, Any]:
        """What steps of this part found out."""
        return self.record.facts

    @property
    def committed(self) -> bool:
        """Whether the whole job can only go forward."""
        return self._part.committed

    async def commit(self, committed: bool) -> None:
        """The whole job does that, for all at once."""
        del committed
        await self.save()

    async def save(self, *, once: bool = False) -> None:
        """Make the whole job's record durable."""
        self._part.record.message = self.record.message
        await self._part.save(once=once)

    def publish(self) -> None:
        """Tell operators how the whole job is."""
        self._part.record.message = self.record.message
        self._part.publish()

    def tell(self, progress: m.Progress) -> None:
        """Publish how far all of them are together."""
        self._told[self.part] = progress
        rate = sum(each.rate_bytes_per_s for each in self._told.values())
        left = sum(each.left_bytes for each in self._told.values())
        self._part.tell(
            m.Progress(
                done_bytes=sum(each.done_bytes for each in self._told.values()),
                left_bytes=left,
                rate_bytes_per_s=rate,
                eta_s=left / rate if rate > 0 else None,
            )
        )


def members(context: JobContext) -> list[Member]:
    """The parts of a job, one a data set."""
    told: dict[str, m.Progress] = {}
    return [Member(part, told) for part in context.parts()]


async def each(parts: Sequence[Member], work: Callable[[Member], Awaitable[None]]) -> None:
    """Do it for all at once, whatever becomes of one; what failed is raised as one error then."""
    outcomes = await asyncio.gather(*(work(part) for part in parts), return_exceptions=True)
    failed: list[tuple[str, RejectedError]] = []
    for part, outcome in zip(parts, outcomes, strict=True):
        if isinstance(outcome, RejectedError | OSError):
            failed.append((part.data_set.name, as_rejected(outcome)))
        elif isinstance(outcome, BaseException):
            raise outcome
    if failed:
        raise together(failed)


def together(failed: list[tuple[str, RejectedError]]) -> RejectedError:
    """Errors of several data sets in one; what doesn't pass by itself comes first."""
    failed = sorted(failed, key=lambda one: one[1].code in TRANSIENT)
    message = "; ".join(f"'{name}': {error.message}" for name, error in failed)
    _, first = failed[0]
    final = next((error for _, error in failed if isinstance(error, FinalError)), None)
    if final is not None:
        return FinalError(message, final.next_step, final.code)
    return RejectedError(first.code, message, first.next_step)
