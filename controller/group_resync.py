"""The resync of a group: every pair decides first, then all begin, or none does.

Owns that decision and its deadline. Must not decide which way a pair is copied: its owner does, by
the generations. Refuses with RejectedError, naming the pair that stands in the way, with nothing
begun; what goes wrong behind that is said as such.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.groups import Groups
from controller.link.channel import Channel
from controller.pair.asked import Asked
from controller.pair.inbox import Gate
from controller.pair.owner import PairOwner
from controller.pair.table import Answer, Command


async def resync(groups: Groups, asked: m.GroupResync) -> Verdict:
    """Resynchronise every pair of a group; a no-op where all of them mirror or copy already."""
    owners = groups.members(groups.get(asked.name).pairs)
    wanted = Asked(Command.RESYNC, direction=asked.direction, force=asked.force)
    return await _GroupResync(asked.name, owners, wanted).run(asked.deadline_s)


@dataclass(frozen=True, slots=True)
class _Member:
    """One pair of it."""

    owner: PairOwner
    weighed: asyncio.Future[Channel | None]
    end: asyncio.Future[Answer]

    @property
    def error(self) -> RejectedError | None:
        """Why it has not begun, and won't."""
        error = self.end.exception() if self.end.done() and not self.end.cancelled() else None
        return error if isinstance(error, RejectedError) else None


class _GroupResync:
    """One such command, under way."""

    def __init__(self, name: str, owners: list[PairOwner], wanted: Asked) -> None:
        self._name = name
        self._again = f"trilun group resync {name}"
        self._gate = Gate()
        self._decided = asyncio.Event()
        for owner in owners:
            owner.check_serves()
        begun = [(owner, *owner.resync_together(wanted, self._gate)) for owner in owners]
        self._members = [_Member(*each) for each in begun]
        for member in self._members:
            member.weighed.add_done_callback(self._look)
            member.end.add_done_callback(self._look)

    def _look(self, _done: object) -> None:
        # Each error is looked at, also of those that fail behind the first: none is left unseen.
        errors = [member.error for member in self._members]
        if any(errors) or all(member.weighed.done() for member in self._members):
            self._decided.set()

    async def run(self, deadline_s: float) -> Verdict:
        """Let all decide; then open the gate, or shut it."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + deadline_s
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self._decided.wait()
        except asyncio.CancelledError:
            # Owners that wait at the gate do nothing else.
            self._gate.shut(RejectedError(Code.TIMEOUT, "nobody waits for it", self._again))
            raise
        refusal = self._refusal()
        if refusal is not None:
            self._gate.shut(refusal)
            raise refusal
        self._gate.open()
        ends = [member.end for member in self._members]
        await asyncio.wait(ends, timeout=max(0.0, until_s - clock()))
        self._check_begun()
        verdicts = {end.result().verdict for end in ends}
        return Verdict.NO_OP if verdicts == {Verdict.NO_OP} else Verdict.ACCEPTED

    def _refusal(self) -> RejectedError | None:
        """Why none begins; None when nothing stands in the way of any, in this very step."""
        for member in self._members:
            if member.error is not None:
                step = f"{member.error.next_step}; then again: {self._again}"
                return self._refused(member, member.error.code, member.error.message, step)
        for member in self._members:
            if not member.weighed.done():
                why = "has not said in time where its sides stand"
                step = f"look at it: trilun pair show {member.owner.record.name}"
                return self._refused(member, Code.TIMEOUT, why, f"{step}; then: {self._again}")
            channel = member.weighed.result()
            if channel is not None and member.owner.side.channel is not channel:
                return self._refused(member, Code.NO_PEER, "has lost its link", self._again)
        return None

    def _refused(self, member: _Member, code: Code, why: str, step: str) -> RejectedError:
        return RejectedError(
            code,
            f"no pair of group '{self._name}' is resynchronised: '{member.owner.record.name}': "
            f"{why}",
            step,
        )

    def _check_begun(self) -> None:
        """RejectedError when one could not begin although it had decided, or has not yet."""
        for member in self._members:
            name, error = member.owner.record.name, member.error
            if error is not None:
                raise RejectedError(
                    error.code,
                    f"the resync of group '{self._name}' has begun, but not that of '{name}': "
                    f"{error.message}",
                    f"{error.next_step}; then again: {self._again}",
                )
            if not member.end.done():
                raise RejectedError(
                    Code.TIMEOUT,
                    f"the resync of group '{self._name}' has begun, and '{name}' has not confirmed "
                    "it in time",
                    f"it goes on: trilun group wait {self._name} PAIR",
                )
