"""The P-VOL's side of the conversation: it decides, asks the other side, and starts the copies.

Owns the steps of split, resync each way, delete and going on after a cut, as the P-VOL's side
takes them. Runs inside the owner's task. Every step leaves a record from which the next start
goes on; nothing here retries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import Direction, PairState, Role
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.generations import How
from controller.pair.inbox import Together
from controller.pair.quick import QuickSplit
from controller.pair.splitting import Splitting
from controller.pair.standing import split_news, turned_down
from controller.pair.table import Answer, Command
from controller.pair.verdict import met
from controller.pair.weighing import Weighed, different_sizes, weigh
from controller.volume.store import StoreError, finished

if TYPE_CHECKING:
    from controller.pair.owner import PairOwner


class Leader:
    """Steps of the P-VOL's side."""

    def __init__(self, owner: PairOwner) -> None:
        self._owner = owner
        self._side = owner.side
        self._record = owner.record
        self.splitting = Splitting(owner, self.resync)
        self.quick = QuickSplit(owner, self)

    # ------------------------------------------------------------ commands

    async def resync(self, asked: Asked, *, automatic: bool) -> None:
        """Decide by the generations, then copy the way that was decided."""
        if self._record.guarded and self._side.channel is not None:
            # It is about to follow: what has not been kept by now is no backup any more.
            self._record.instant = ""
        await self._begin(asked, await weigh(self._owner, self, asked, automatic=automatic))

    async def resync_together(self, item: Together) -> Answer:
        """The same for one pair of a group: it waits until all of them have decided."""
        item.gate.check()
        _, row = met(self._record, item.asked, self._owner.services.node)
        if row.verdict is Verdict.NO_OP:
            item.weighed.set_result(None)
            return row
        weighed = await weigh(self._owner, self, item.asked, automatic=False)
        item.weighed.set_result(weighed.channel)
        await item.gate.passed()
        if self._record.guarded:
            self._record.instant = ""
        self._owner.talk.still(weighed.channel)
        await self._begin(item.asked, weighed)
        return row

    async def resume_guarded(self) -> None:
        """The source of what the guard split is in sync again (law L7)."""
        if self._record.guarded:
            await self.resync(Asked(Command.RESYNC), automatic=False)

    async def _begin(self, asked: Asked, weighed: Weighed) -> None:
        record = self._record
        if weighed.decision.how is How.FULL:
            self._side.bitmap.set_all()
        if asked.rate_limit_bytes_per_s is not None:
            record.rate_limit_bytes_per_s = asked.rate_limit_bytes_per_s
        record.halted = False
        if weighed.decision.direction is Direction.FORWARD:
            await self.quick.end()
            # Where nobody named the direction, nothing may be discarded that came since.
            await self._forward("" if weighed.named else weighed.current)
        else:
            await self._reverse(weighed.current)
        self._owner.services.changed(self._side)

    def check_exclusive(self, *, force: bool) -> None:
        """RejectedError while hosts, or another pair, use what is about to be taken (law L12)."""
        side = self._side
        use = self._owner.services.use_of(side)
        if use:
            raise RejectedError(Code.IN_USE, use, "end that first")
        initiators = self._owner.services.initiators_of(side)
        if initiators and not force:
            raise RejectedError(
                Code.IN_USE,
                f"{initiators} initiator(s) are logged in to '{side.volume.name}', "
                "which hosts may not use during and after this",
                "log them out, or do it under them with --force",
            )

    async def delete(self, *, force: bool) -> None:
        """Dissolve the pair on both sides; with force on this one alone when it must be."""
        record = self._record
        if record.role is Role.P_VOL and not self._side.volume.state.consistent and not force:
            raise RejectedError(
                Code.NOT_CONSISTENT,
                f"'{self._side.volume.name}' is half copied and would stay unusable",
                f"end the copy: trilun pair resync {record.name} --reverse, or use --force",
            )
        if self._side.behind is not None and not force:
            report = await self.ask_report()
            if report.in_use:
                raise RejectedError(Code.IN_USE, report.in_use, "end that first")
        await self.quick.end()
        channel = self._side.channel
        if channel is not None and channel.alive:
            self._side.part()
            await self._owner.talk.converse(msg.Delete(), msg.Deleted, msg.UnknownPair)
        elif not force:
            raise RejectedError(
                Code.NO_PEER,
                f"the other side of '{record.name}' can't be reached and would keep its half",
                "restore the link, or delete this side alone with --force",
            )
        self._side.part()
        # An S-VOL that is deleted alone: the source's last writes come before its hosts'.
        await self._owner.all_stored()
        await self._owner.services.forget(self._side)

    async def split_begun(self) -> None:
        """A split whose instant has passed is made durable."""
        await (self.quick.complete() if self.quick.begun else self.splitting.complete())

    # ------------------------------------------------------------ copies

    async def _forward(self, expected: str) -> None:
        owner, side, record = self._owner, self._side, self._record
        channel = owner.talk.epoch()
        side.begin_resync()
        # A host may write while the other side prepares. Then the target has agreed on the
        # generation before that write, and so do we: its blocks are marked and travel. Where
        # the target was told that nothing would be copied, it has to be asked again, because
        # a copy makes it inconsistent (law L7).
        while True:
            agreed, dirty_bytes = record.current, side.bitmap.dirty_bytes
            prepare = msg.Prepare(dirty_bytes=dirty_bytes, current=agreed, expected=expected)
            expected = ""
            reply = await owner.talk.converse(prepare, msg.Prepared, msg.Refused)
            owner.talk.still(channel)
            if isinstance(reply, msg.Refused):
                raise turned_down(record, reply)
            assert isinstance(reply, msg.Prepared)
            if dirty_bytes or reply.dirty_bytes or not side.bitmap.dirty_bytes:
                break
        side.discarded_bytes = reply.dirty_bytes
        side.union_bytes = side.bitmap.dirty_bytes
        # From this step on every write of a host is in the stream, behind all copies before it.
        side.lead()
        record.goal = "mirror"
        record.guarded = False
        record.agree(agreed)
        record.closed = ""
        side.volume.state.generation = agreed
        owner.set_state(PairState.COPY)
        await owner.save()
        owner.talk.still(channel)
        if not side.mirroring:
            return
        owner.talk.send(
            msg.Started(union_bytes=side.union_bytes, discarded_bytes=side.discarded_bytes)
        )
        self.start_copier()

    def start_copier(self) -> None:
        """Copy from this side's volume to the other side's."""
        side, owner = self._side, self._owner
        if side.channel is None:
            return

        def failed(error: StoreError) -> None:
            owner.store_failed(str(error))

        side.start_copier(side.channel, owner.copied, failed)

    async def copied(self) -> None:
        """The forward copy has ended: say so on disk, on both sides."""
        side, owner, record = self._side, self._owner, self._record
        copier, channel = side.copier, owner.talk.epoch()
        if record.state is not PairState.COPY or copier is None or not copier.ended:
            return
        if not side.volume.state.consistent:
            # The source is the target of another pair's copy just now: a mirror of it is no
            # point in time either (law L7). `Pairs.in_sync` comes back here.
            return
        await finished(side.bitmap_file.save)
        owner.talk.still(channel)
        await owner.talk.converse(msg.Finish(), msg.Finished)
        owner.talk.still(channel)
        if side.copier is not copier:
            return
        side.end_copier()
        side.doubt = None
        side.counting_wire = False
        if side.verifier is not None:
            side.verifier.copied()
        owner.set_state(PairState.PAIR)
        await owner.save()
        owner.services.in_sync(side)

    async def _reverse(self, current: str) -> None:
        owner, side, record = self._owner, self._side, self._record
        channel = owner.talk.epoch()
        side.begin_resync()
        before, was_consistent = record.model_copy(), side.volume.state.consistent
        owner.set_state(PairState.RCPY)
        await owner.drained()
        try:
            await owner.services.guard(side)
        except RejectedError as error:
            owner.set_state(before.state, error.message)
            raise
        owner.talk.still(channel)
        if before.goal != "reverse":
            record.copies_back += 1
        record.goal = "reverse"
        record.guarded = False
        side.volume.state.consistent = False
        record.agree(current)
        side.follow()
        await owner.save()
        owner.talk.still(channel)
        dirty_bytes = side.bitmap.dirty_bytes
        side.discarded_bytes = dirty_bytes
        side.send_bitmap(channel)
        reverse = msg.Reverse(
            agreed=current,
            dirty_bytes=dirty_bytes,
            rate_limit_bytes_per_s=record.rate_limit_bytes_per_s,
        )
        reply = await owner.talk.converse(reverse, msg.Started, msg.Refused)
        owner.talk.still(channel)
        if isinstance(reply, msg.Refused):
            side.part()
            side.volume.state.consistent = was_consistent
            record.goal, record.guarded = before.goal, before.guarded
            record.current, record.baseline = before.current, before.baseline
            record.history, record.copies_back = before.history, before.copies_back
            owner.set_state(before.state, reply.reason)
            await owner.save()
            raise turned_down(record, reply)
        assert isinstance(reply, msg.Started)
        side.union_bytes = reply.union_bytes
        side.sink_left_bytes = reply.union_bytes

    async def take(self, message: msg.Message) -> None:
        """A message that nobody was waiting for."""
        if isinstance(message, msg.Finish) and self._record.state is PairState.RCPY:
            await self._copied_back()
        elif isinstance(message, msg.Report):
            await self._reported(message)
        elif isinstance(message, msg.Swapped | msg.Refused):
            await self._owner.roles.answered(message)

    async def _reported(self, report: msg.Report) -> None:
        """The other side reports unasked: it claims this role, or it has just yielded it."""
        if await self._owner.roles.agreed(report):
            self._owner.post("opened")

    async def _copied_back(self) -> None:
        side, owner, record = self._side, self._owner, self._record
        channel = owner.talk.epoch()
        side.bitmap.clear_all()
        side.doubt = None
        record.goal = "mirror"
        record.closed = ""
        side.volume.state.consistent = side.replaced = True
        side.volume.state.generation = record.current
        await owner.save()
        owner.talk.still(channel)
        if not side.sinking:
            return
        side.counting_wire = False
        owner.talk.send(msg.Finished())
        side.lead()
        owner.set_state(PairState.PAIR)
        await owner.save()
        owner.services.in_sync(side)

    # ------------------------------------------------------------ cuts and failures

    def peer_failed(self, reason: str) -> None:
        """The other side's store failed and it follows no longer."""
        side, owner = self._side, self._owner
        side.peer_suspended = True
        owner.halt(
            f"the other side failed: {reason}",
            f"mend it, then: trilun pair resync {self._record.name}",
        )
        if side.channel is not None:
            side.channel.forget()
        # What was asked before has no answer that still counts: a split that waits in the
        # queue behind the failed write is no instant (law L11).
        owner.talk.lost(f"it failed: {reason}")
        owner.post("persist")

    def unknown_there(self, message: msg.UnknownPair) -> None:
        """The other controller has no such pair."""
        reason, owner = "the other controller doesn't know this pair", self._owner
        owner.talk.takes(message)
        owner.talk.lost(reason)
        owner.halt(reason, f"delete it here too: trilun pair delete {self._record.name}")
        owner.post("persist")

    async def opened(self) -> None:
        """The link is up: go on with what the record says."""
        record, owner = self._record, self._owner
        if record.role is Role.S_VOL:
            return
        report = await self.ask_report()
        if not await owner.roles.agreed(report):
            return
        different = different_sizes(self._side, report)
        if different:
            owner.halt(different, f"delete the pair: trilun pair delete {record.name}")
            await owner.services.commit()
        elif report.state is PairState.SSWS:
            owner.roles.other_took_over()
        elif record.behind:
            await self.quick.resume(report)
        elif record.goal == "split":
            if report.state is not PairState.SSUS:
                self.splitting.tell()
                await self.splitting.complete()
                report = await self.ask_report()
            self._side.peer_suspended = True
            if record.state is PairState.PSUE and not record.halted:
                # The link broke while a copy was being prepared: the split stands.
                owner.set_state(PairState.PSUS)
            stands = report.consistent and report.state is PairState.SSUS
            if not stands:
                record.label = ""
            record.reason, record.next_step = split_news(record.name, consistent=stands)
            owner.see_split_brain()
            owner.services.changed(self._side)
        elif not record.halted and record.state is PairState.PSUE:
            await self._resume()

    async def _resume(self) -> None:
        record = self._record
        direction = Direction.REVERSE if record.goal == "reverse" else Direction.FORWARD
        try:
            await self.resync(
                Asked(Command.RESYNC, direction=direction),
                automatic=direction is Direction.FORWARD,
            )
        except RejectedError as error:
            record.reason = error.message
            record.next_step = error.next_step
            self._owner.services.changed(self._side)
            raise

    async def ask_report(self) -> msg.Report:
        """Where the other side stands now."""
        reply = await self._owner.talk.converse(self._owner.own_report(), msg.Report)
        assert isinstance(reply, msg.Report)
        self._owner.report = reply
        self._owner.see_split_brain()
        return reply
