"""Splits and marks, as the P-VOL's side makes them: one instant in the stream (law L11).

Owns that instant, its label, and what makes it durable on both sides. Runs inside the owner's task,
but for `begin`, which is the instant itself and is called where that has to be.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import PairState
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.inbox import MarkBegun
from controller.pair.table import Answer, Command

if TYPE_CHECKING:
    from controller.pair.conversation import Reply
    from controller.pair.owner import PairOwner


class Resync(Protocol):
    """How a split that was taken back mirrors again."""

    def __call__(self, asked: Asked, *, automatic: bool) -> Awaitable[None]:
        """See `Leader.resync`."""


class Splitting:
    """Steps of the P-VOL's side."""

    def __init__(self, owner: PairOwner, resync: Resync) -> None:
        self._owner = owner
        self._side = owner.side
        self._record = owner.record
        self._resync = resync
        self._split_done: Reply | None = None

    async def split(self, asked: Asked) -> None:
        """Stop mirroring; the other side is told at this point of the stream."""
        first_time = self._record.state is not PairState.PSUS
        self.begin(asked.label, writable=asked.writable)
        if first_time:
            self._record.split_at, self._record.backup_number = asked.at, asked.number
        await self.complete()

    def begin(self, label: str, *, writable: bool) -> None:
        """The instant of the split: between two writes (law L11)."""
        record = self._record
        first_time = record.state is not PairState.PSUS
        self._side.part()
        if first_time:
            record.label = label
            record.instant = ""
        record.goal = "split"
        record.halted = False
        record.guarded = False
        record.writable = writable
        self._owner.set_state(PairState.PSUS)
        self.tell()

    def tell(self) -> None:
        """Put the split into the stream, if there is one."""
        record = self._record
        if self._side.channel is not None:
            self._split_done = self._owner.talk.awaiting(msg.SplitDone)
            self._owner.talk.send(
                msg.Split(writable=record.writable, label=record.label, baseline=record.baseline)
            )

    async def complete(self) -> None:
        """Make the split durable on both sides, as far as the other one can be reached."""
        reply, self._split_done = self._split_done, None
        if reply is None:
            self._record.reason = "the other side will be told when the link is back"
        await self._owner.services.commit()
        if reply is not None:
            await self._owner.talk.settled(reply)

    async def take_back(self, reason: str) -> None:
        """The pair mirrors again, at once or when the link is back."""
        record = self._record
        if record.goal != "split":
            return
        record.goal = "mirror"
        record.label = ""
        self._owner.set_state(PairState.PSUE, reason, "none: it resumes by itself")
        await self._owner.services.commit()
        if self._side.channel is not None:
            await self._resync(Asked(Command.RESYNC), automatic=True)

    async def mark(self, item: msg.Mark | MarkBegun) -> Answer:
        """Put a backup's mark into the stream, and wait until the other side has acted on it."""
        if isinstance(item, msg.Mark):
            self._check_mirroring()
            item = self.begin_mark(item)
        mark = item.mark
        if mark.split_remote:
            await self.complete()
        marked = await self._owner.talk.settled(item.reply)
        assert isinstance(marked, msg.Marked)
        if marked.error:
            if mark.split_remote:
                await self._resync(Asked(Command.RESYNC), automatic=False)
            step = marked.next_step or f"look at it: trilun pair show {mark.local_pair}"
            raise RejectedError(Code(marked.code), marked.error, step)
        return Answer(Verdict.ACCEPTED, self._record.state, "marked")

    def begin_mark(self, mark: msg.Mark) -> MarkBegun:
        """The instant of a mark: between two writes (law L11)."""
        reply = self._owner.talk.awaiting(msg.Marked)
        self._owner.talk.send(mark)
        if mark.split_remote:
            # In the same step: nothing comes between the two in the stream.
            self.begin(mark.label, writable=False)
            self._record.split_at = mark.at
        return MarkBegun(mark, reply)

    def _check_mirroring(self) -> None:
        if self._record.state is not PairState.PAIR or self._side.channel is None:
            raise RejectedError(
                Code.WRONG_STATE,
                f"pair '{self._record.name}' is in {self._record.state}, a backup needs PAIR",
                f"bring it in sync: trilun pair resync {self._record.name}, then trilun pair wait",
            )
