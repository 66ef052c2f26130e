"""The S-VOL's side of the conversation: it follows, and copies back when told to.

Owns the steps of the S-VOL's side. What belongs at its place in the stream (a split, a mark, the
end of a copy) happens in the call that delivers the message, behind every write before it; what
needs the disk follows in the owner's task, and the answer goes out when it is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.api.errors import RejectedError
from controller.api.messages import PairState
from controller.pair import messages as msg
from controller.pair.standing import may_be_source, split_news
from controller.pair.table import Event, after
from controller.volume.store import StoreError, finished

if TYPE_CHECKING:
    from controller.pair.owner import PairOwner


_MOVED_ON = "the S-VOL was written just now; give the command again"


class Follower:
    """Steps of the S-VOL's side; the messages of a copy serve whichever side is its target."""

    def __init__(self, owner: PairOwner) -> None:
        self._owner = owner
        self._side = owner.side
        self._record = owner.record

    def at_once(self, message: msg.PairMessage) -> bool:
        """Do what a message asks at this point of the stream; False when it can wait."""
        side, owner = self._side, self._owner
        if isinstance(message, msg.Cleared):
            side.clear_covered()
        elif isinstance(message, msg.Split):
            side.volume.barrier(lambda: self._split(message))
        elif isinstance(message, msg.Mark):
            side.volume.barrier(lambda: owner.services.mark_local(side, message, owner.talk.send))
        elif isinstance(message, msg.Unmark):
            side.volume.barrier(lambda: owner.services.unmark_local(side, message))
        elif isinstance(message, msg.Finished) and self._record.state is PairState.RCPY:
            # The P-VOL's writes may be right behind this message.
            side.follow()
            owner.deliver(message)
        elif isinstance(message, msg.Started) and self._record.state is PairState.COPY:
            side.union_bytes = message.union_bytes
            side.sink_left_bytes = message.union_bytes
            side.discarded_bytes = message.discarded_bytes
        else:
            return False
        return True

    def _split(self, split: msg.Split) -> None:
        record, side, owner = self._record, self._side, self._owner
        state = after(record.state, Event.TOLD_SPLIT)
        stands = record.settled or record.state is state
        if state is not None and side.volume.state.consistent and stands:
            side.part()
            record.goal = "split"
            record.halted = False
            record.writable = split.writable
            record.settled = record.settled and record.state is state
            record.label = split.label
            owner.set_state(state)
        elif state is not None:
            # It waits for no more of that copy: another pair may fill the volume.
            record.goal = "split"
            record.reason, record.next_step = split_news(record.name, consistent=False)
            owner.see_split_brain()
            owner.services.changed(side)
        owner.post(msg.SplitDone())

    async def take(self, message: msg.Message) -> None:
        """A message in its turn."""
        owner = self._owner
        if isinstance(message, msg.Report):
            owner.report = message
            owner.see_split_brain()
            owner.talk.send(owner.own_report())
        elif isinstance(message, msg.Prepare):
            await self._prepare(message)
        elif isinstance(message, msg.Finish):
            await self._finish()
        elif isinstance(message, msg.Whole):
            await self._whole(message)
        elif isinstance(message, msg.Reverse):
            await self._reverse(message)
        elif isinstance(message, msg.Finished):
            await self._copied_back()
        elif isinstance(message, msg.Delete):
            self._side.part()
            # The source's last writes may wait for the log still, and hosts are let in next.
            await owner.all_stored()
            await owner.services.forget(self._side)
            owner.talk.send(msg.Deleted())

    async def split_stored(self, done: msg.SplitDone) -> None:
        """The split has happened: make it durable, data first, then say so.

        The S-VOL's last writes are in its disk's cache still, and a crash would leave some of
        them out of what an operator was told is one point in time (law L7).
        """
        await finished(self._side.volume.settle)
        if self._record.state is PairState.SSUS:
            self._record.settled = True
        self._side.volume.update_access()
        await self._owner.services.commit()
        self._owner.talk.send(done)

    async def _prepare(self, prepare: msg.Prepare) -> None:
        """Become the target: close the door to hosts, keep one consistent copy, tell our bits."""
        record, side, owner = self._record, self._side, self._owner
        use = owner.services.use_of(side)
        state = after(record.state, Event.TOLD_COPY)
        if use or state is None:
            self._refuse(use or f"the S-VOL is in {record.state}")
            return
        if prepare.expected not in ("", record.current):
            self._refuse(_MOVED_ON)
            return
        channel, before, goal = owner.talk.epoch(), record.state, record.goal
        side.begin_resync()
        record.goal = "mirror"
        owner.set_state(state)
        await owner.drained()
        owner.talk.still(channel)
        refusal = ""
        if prepare.expected not in ("", record.current):
            # A host's write was waiting for its new generation when we closed the door.
            refusal = _MOVED_ON
        elif prepare.dirty_bytes or len(side.bitmap):
            refusal = await self._guarded()
            owner.talk.still(channel)
        if refusal:
            record.goal = goal
            owner.set_state(before)
            self._refuse(refusal)
            return
        record.halted = False
        if prepare.dirty_bytes or len(side.bitmap):
            side.volume.state.consistent = False
        record.agree(prepare.current)
        await owner.services.commit()
        owner.talk.still(channel)
        side.follow()
        side.send_bitmap(channel)
        owner.talk.send(msg.Prepared(dirty_bytes=side.bitmap.dirty_bytes))

    async def _guarded(self) -> str:
        """Keep one consistent copy (law L7); why that can't be, or an empty text."""
        try:
            await self._owner.services.guard(self._side)
        except RejectedError as error:
            return error.message
        return ""

    def _refuse(self, reason: str) -> None:
        self._owner.talk.send(msg.Refused(reason=reason))

    async def _finish(self) -> None:
        """In sync: every bit is clear, on disk too (law L3)."""
        record, side, owner = self._record, self._side, self._owner
        if record.state is not PairState.COPY or not side.sinking:
            return
        channel = owner.talk.epoch()
        side.bitmap.clear_all()
        side.doubt = None
        record.settled = True
        side.volume.state.consistent = True
        side.volume.state.generation = record.current
        side.counting_wire = False
        owner.set_state(PairState.PAIR)
        await owner.save()
        owner.talk.still(channel)
        owner.talk.send(msg.Finished())
        owner.services.in_sync(side)

    async def _whole(self, whole: msg.Whole) -> None:
        """A quick split is copied: data first, then say that this is one point in time."""
        record, side, owner = self._record, self._side, self._owner
        state = after(record.state, Event.TOLD_WHOLE)
        if state is None or not side.sinking:
            self._refuse(f"the S-VOL is in {record.state} and has not followed to the end")
            return
        channel = owner.talk.epoch()
        await owner.all_stored()
        await finished(side.volume.settle)
        owner.talk.still(channel)
        side.part()
        side.bitmap.clear_all()
        side.doubt = None
        side.counting_wire = False
        record.goal = "split"
        record.halted = False
        record.writable, record.label = whole.writable, whole.label
        record.settled = True
        side.volume.state.consistent = True
        side.volume.state.generation = record.current
        owner.set_state(state)
        await owner.save()
        owner.talk.send(msg.SplitDone())
        owner.services.in_sync(side)

    async def _reverse(self, reverse: msg.Reverse) -> None:
        """Copy back: the other side's bits were merged into ours as they arrived."""
        record, side, owner = self._record, self._side, self._owner
        state = after(record.state, Event.TOLD_REVERSE)
        if state is None or not may_be_source(side) or side.channel is None:
            self._refuse(f"the S-VOL is in {record.state} and can't be a source")
            return
        use = owner.services.use_of(side)
        if use:
            self._refuse(use)
            return
        if record.current != reverse.agreed:
            self._refuse(_MOVED_ON)
            return
        channel, before = side.channel, record.state
        side.begin_resync()
        owner.set_state(state)
        await owner.drained()
        owner.talk.still(channel)
        if record.current != reverse.agreed:
            # A host's write was waiting for its new generation when we closed the door.
            owner.set_state(before)
            self._refuse(_MOVED_ON)
            return
        record.goal = "reverse"
        record.halted = False
        record.rate_limit_bytes_per_s = reverse.rate_limit_bytes_per_s
        side.union_bytes = side.bitmap.dirty_bytes
        side.discarded_bytes = reverse.dirty_bytes
        record.agree(record.current)
        await owner.save()
        owner.talk.still(channel)
        if record.state is not PairState.RCPY:
            return

        def failed(error: StoreError) -> None:
            owner.store_failed(str(error))

        owner.talk.send(
            msg.Started(union_bytes=side.union_bytes, discarded_bytes=side.discarded_bytes)
        )
        side.start_copier(channel, owner.copied, failed)

    async def copied_back(self) -> None:
        """The copier has ended: the target says so on its disk, then we do on ours."""
        side, owner, record = self._side, self._owner, self._record
        copier, channel = side.copier, owner.talk.epoch()
        if record.state is not PairState.RCPY or copier is None or not copier.ended:
            return
        await finished(side.bitmap_file.save)
        owner.talk.still(channel)
        owner.talk.send(msg.Finish())

    async def _copied_back(self) -> None:
        side, owner, record = self._side, self._owner, self._record
        side.end_copier()
        side.doubt = None
        side.counting_wire = False
        record.settled = True
        record.goal = "mirror"
        owner.set_state(PairState.PAIR)
        await owner.save()
        owner.services.in_sync(side)
