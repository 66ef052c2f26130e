"""Quick splits, as the P-VOL's side makes them: split now, copy behind (ARCHITECTURE.md).

Owns the instant, what makes it durable before any write goes on, how it goes on after a restart,
and its end, well or not. Runs inside the owner's task, but for `begin`, which is the instant
itself. Until the split is on disk nothing is written to the P-VOL, so that a split that can't be
is taken back without a trace; from then on the S-VOL's content is given up durably before a
block that is still owed to it may be overwritten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import PairKind, PairState
from controller.link.channel import Channel
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.behind import CopyBehind
from controller.pair.standing import may_be_source, split_news
from controller.pair.table import Answer, Command
from controller.volume.early import EarlyImage
from controller.volume.owed import OwedBlocks
from controller.volume.store import StoreError, StoreFault, finished

if TYPE_CHECKING:
    from controller.pair.leader import Leader
    from controller.pair.owner import PairOwner
    from controller.pair.side import PairSide

BEHIND = "split; what differed is being copied behind it"


class QuickSplit:
    """Steps of the P-VOL's side."""

    def __init__(self, owner: PairOwner, leader: Leader) -> None:
        self._owner = owner
        self._leader = leader
        self._side = owner.side
        self._record = owner.record
        self._asked: Asked | None = None
        """The split whose instant has passed and that isn't on disk yet."""

    # ------------------------------------------------------------ the split

    async def split(self, asked: Asked, row: Answer) -> Answer:
        """Make the S-VOL what the P-VOL is now, at once, whatever they differ in."""
        record, side = self._record, self._side
        if side.behind is not None:
            return Answer(Verdict.NO_OP, record.state, "it is split, and being copied behind it")
        if record.state is PairState.PAIR:
            await self._leader.splitting.split(asked)
            return row
        if record.kind is not PairKind.LOCAL:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"'{record.name}' is a remote pair: only a local one can be split before PAIR",
                f"bring it in sync: trilun pair resync {record.name}, then split it",
            )
        if record.state is not PairState.COPY:
            await self._leader.resync(Asked(Command.RESYNC), automatic=False)
        begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def instant() -> None:
            # Not for a controller that stops: nobody would make it durable.
            if not begun.done():
                begun.set_result(self.begin(asked))

        side.volume.barrier(instant)
        refusal = await begun
        if refusal:
            raise RejectedError(Code.WRONG_STATE, refusal, f"trilun pair show {record.name}")
        await self.complete()
        return row

    def refusal(self) -> str:
        """Why the pair can't be split at this instant, or an empty text."""
        record, side = self._record, self._side
        if side.behind is not None:
            return f"pair '{record.name}' is being copied behind its last split"
        if record.kind is not PairKind.LOCAL or record.state is not PairState.COPY:
            return f"pair '{record.name}' is in {record.state}"
        if not side.mirroring or side.channel is None or not may_be_source(side):
            return f"'{side.volume.name}' is no point in time just now"
        return ""

    def begin(self, asked: Asked) -> str:
        """The instant, between two writes (law L11): no write passes until it is on disk.

        To be called where no write is on its way into the store. Returns why it can't be.
        """
        refusal = self.refusal()
        if not refusal:
            self._asked = asked
            self._side.end_copier()
            self._side.mirroring = False
            self.shut()
        return refusal

    def shut(self) -> CopyBehind:
        """Put the gate before the P-VOL's writes, shut."""
        side, owner = self._side, self._owner
        behind = CopyBehind(
            side.volume,
            side.bitmap,
            side.clock,
            self._record.rate_limit_bytes_per_s,
            lambda: owner.post("behind"),
            owner.store_failed,
        )
        side.behind = behind
        side.volume.gates.append(behind)
        return behind

    @property
    def begun(self) -> bool:
        """Whether a split's instant has passed and it isn't on disk yet."""
        return self._asked is not None

    async def complete(self) -> None:
        """Put the split on disk, data first, and let writes go on."""
        record, side, owner = self._record, self._side, self._owner
        asked, self._asked = self._asked, None
        behind, channel = side.behind, side.channel
        if asked is None or behind is None or channel is None:
            raise RejectedError(
                Code.WRONG_STATE, f"the split of '{record.name}' was overtaken", "give it again"
            )
        try:
            owed = await self._prepared(channel)
        except StoreError as error:
            self._take_back(behind)
            code = Code.NO_SPACE if error.fault is StoreFault.NO_SPACE else Code.IO_ERROR
            step = "make room on the disks of volume_dir and state_dir, or mend them"
            raise RejectedError(code, f"'{record.name}' can't be split: {error}", step) from error
        if not self._goes_on(behind) or side.channel is not channel:
            owed.close()
            raise RejectedError(Code.IO_ERROR, record.reason, record.next_step)
        # One step: any commit of the catalogue has all of this, or nothing.
        record.goal = "split"
        record.halted = record.guarded = False
        record.writable = asked.writable
        record.label, record.split_at, record.backup_number = asked.label, asked.at, asked.number
        record.instant = ""
        record.behind = True
        side.counting_wire = False
        owner.set_state(PairState.PSUS, BEHIND)
        try:
            await owner.services.commit()
        except StoreError:
            owed.close()
            raise
        if not self._goes_on(behind):
            owed.close()
            raise RejectedError(Code.IO_ERROR, record.reason, record.next_step)
        behind.open(owed, channel, owner.services.shares(side))

    async def _prepared(self, channel: Channel) -> OwedBlocks:
        """Flush both sides, and write down what is owed."""
        side = self._side
        there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel.flush(_Flushed(there), copy=False)
        here = finished(side.volume.flush_store)
        owed = _outcome(self._owner.services.owe(side))
        found = await asyncio.gather(there, here, owed, return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        on_disk = found[2]
        if isinstance(on_disk, BaseException):
            raise on_disk
        if errors:
            on_disk.close()
            raise errors[0]
        return on_disk

    def _goes_on(self, behind: CopyBehind) -> bool:
        """Whether nothing has failed meanwhile, nor was anything else asked for."""
        return self._side.behind is behind and behind.active

    def _take_back(self, behind: CopyBehind) -> None:
        """Nothing was written since: mirror on, as if nobody had asked."""
        side = self._side
        if not self._goes_on(behind):
            return
        if self._record.state is PairState.COPY and side.channel is not None:
            side.lead()
            self._leader.start_copier()
        self._release()

    def early_image(self, s_side: PairSide) -> EarlyImage | None:
        """What the S-VOL is going to be, readable from the step in which copying has begun."""
        side = self._side
        behind = side.behind
        if behind is None or behind.owed is None or not behind.copying:
            return None
        stores = side.volume.store, s_side.volume.store
        return EarlyImage(*stores, behind.owed.held, lambda: behind.active)

    # ------------------------------------------------------------ its end

    async def copied(self) -> None:
        """Nothing is owed any more: the S-VOL is what the P-VOL was, and says so on disk."""
        side, record, owner = self._side, self._record, self._owner
        behind = side.behind
        if behind is None or not behind.ended or not behind.active:
            return
        whole = msg.Whole(writable=record.writable, label=record.label)
        reply = await owner.talk.converse(whole, msg.SplitDone, msg.Refused)
        if not self._goes_on(behind):
            return
        if isinstance(reply, msg.Refused):
            owner.store_failed(reply.reason)
            return
        await self._over()

    async def _over(self) -> None:
        record, owner = self._record, self._owner
        record.behind = False
        owner.set_state(record.state)
        await owner.save()
        self._release()

    async def end(self) -> None:
        """The S-VOL is to be something else: what was copied to it is given up, durably."""
        if self._stop():
            self._record.reason, self._record.next_step = split_news(
                self._record.name, consistent=False
            )
            await self.given_up()

    def give_up(self) -> None:
        """Something failed. What is held stays so until that is on disk."""
        if self._stop():
            self._owner.post("given up")

    def _stop(self) -> bool:
        behind, record = self._side.behind, self._record
        if behind is None:
            return False
        behind.stop()
        if record.behind:
            # In this step: what is on disk says no more of the copy than what is shown.
            record.behind = False
            record.label = ""
        return True

    async def given_up(self) -> None:
        """Note durably that the S-VOL is no copy; from then on writes need not wait for it."""
        side = self._side
        if side.behind is None or side.behind.active:
            return
        try:
            await self._owner.services.commit()
        except StoreError as error:
            # They may neither go on nor wait for ever.
            side.volume.fail(error)
            raise
        finally:
            self._release()

    def _release(self) -> None:
        self._owner.services.release(self._side)
        self._owner.services.changed(self._side)

    # ------------------------------------------------------------ after a restart

    async def resume(self, report: msg.Report) -> None:
        """Go on with what is owed; the gate stands since the volume was opened."""
        side, record, owner = self._side, self._record, self._owner
        behind, channel = side.behind, owner.talk.epoch()
        if behind is not None and behind.copying:
            # The split is of this very conversation, and came before its opening was dealt with.
            return
        if report.state is PairState.SSUS and report.consistent:
            await self._over()
            return
        if behind is None or behind.owed is None:
            record.behind = False
            record.label = ""
            record.reason, record.next_step = split_news(record.name, consistent=False)
            await owner.services.commit()
            self._release()
            return
        prepare = msg.Prepare(dirty_bytes=side.volume.size_bytes, current=record.baseline)
        reply = await owner.talk.converse(prepare, msg.Prepared, msg.Refused)
        owner.talk.still(channel)
        if isinstance(reply, msg.Refused):
            owner.store_failed(reply.reason)
            return
        owner.set_state(record.state, BEHIND)
        behind.open(behind.owed, channel, owner.services.shares(side))


async def _outcome(owed: Awaitable[OwedBlocks]) -> OwedBlocks | StoreError:
    """What is owed, or why that isn't on disk: as a task of its own it may not just fail."""
    try:
        return await owed
    except StoreError as error:
        return error


class _Flushed:
    """The ticket of the flush at the split."""

    def __init__(self, reached: asyncio.Future[None]) -> None:
        self._reached = reached

    def acked(self) -> None:
        """Everything before the split is on the S-VOL's disk."""
        if not self._reached.done():
            self._reached.set_result(None)

    def lost(self) -> None:
        """It is not."""
        if not self._reached.done():
            self._reached.set_exception(StoreError(StoreFault.IO, "the S-VOL can't be flushed"))
