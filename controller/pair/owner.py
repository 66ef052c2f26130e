"""The owner of one side of a pair: the only task that changes the pair's state (law S1).

Owns commands, the conversation with the other side, and what is written to the catalogue. Takes
events from an inbox in order and looks each up in the state table. Must not touch data: the
side switches its modes when told. A command that can't be is answered with RejectedError; a
conversation that the link cuts ends in LinkLost, and the pair goes on from its record when the
link is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import PairState, Role
from controller.link.channel import Channel
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.auditor import Auditor
from controller.pair.conversation import Conversation, LinkLost
from controller.pair.follower import Follower
from controller.pair.generations import Rule
from controller.pair.inbox import Delivered, Gate, MarkBegun, TakeBack, Together
from controller.pair.leader import Leader
from controller.pair.roles import Roles
from controller.pair.services import PairServices
from controller.pair.side import PairSide
from controller.pair.standing import check_generation, name_the_victim, report_of, split_brain
from controller.pair.table import Answer, Command, Event, after
from controller.pair.verdict import met
from controller.volume.store import StoreError, finished, reached
from targets.lun import Access

log = logging.getLogger(__name__)

MEND_METADATA = "mend the disk that holds state_dir, then restart trilund"
INBOX = 1024
"""Commands are refused behind so much. What has happened already, and what the other side says, is
always taken: one left out would be waited for."""


class PairOwner:
    """The owner task of one side."""

    def __init__(self, side: PairSide, services: PairServices) -> None:
        self.side = side
        self.record = side.record
        self.services = services
        self.report: msg.Report | None = None
        side.events = self
        self._inbox: asyncio.Queue[tuple[object, asyncio.Future[Answer] | None]] = asyncio.Queue()
        self.talk = Conversation(side)
        self._leader = Leader(self)
        self._follower = Follower(self)
        self._auditor = Auditor(self)
        self.quick = self._leader.quick
        self.roles = Roles(self, self._leader.check_exclusive)
        self._inner: dict[str, Callable[[], Awaitable[None]]] = {
            "opened": self._leader.opened,
            "split begun": self._leader.split_begun,
            "unguard": self._leader.resume_guarded,
            "copied": self._copied,
            "behind": self.quick.copied,
            "given up": self.quick.given_up,
            "verified": self._auditor.ended,
            "repaired": self._auditor.repaired,
            "persist": self.services.commit,
            "caught up": self._caught_up,
        }
        self._steps: dict[Command, Callable[[Asked], Awaitable[None]]] = {
            Command.SPLIT: self._leader.splitting.split,
            Command.RESYNC: lambda asked: self._leader.resync(asked, automatic=False),
            Command.REVERSE: lambda asked: self._leader.resync(asked, automatic=False),
            Command.DELETE: lambda asked: self._leader.delete(force=asked.force),
            Command.TAKEOVER: lambda _asked: self.roles.take_over(),
            Command.SWAP: lambda asked: self.roles.swap(force=asked.force),
            Command.KEEP: lambda asked: self.roles.keep(force=asked.force),
        }
        self._task: asyncio.Task[None] | None = None
        self._retired = False

    def start(self) -> None:
        """Begin to serve the inbox. A mirror that ran before a restart has parted since."""
        state = after(self.record.state, Event.LINK_LOST)
        if state is not None and state is not self.record.state:
            self.record.state = state
            news = self.roles.parted("the controller was restarted; waiting for the other side")
            self.record.reason, self.record.next_step = news
            # A copy back that had ended before the restart leaves a volume that hosts may use.
            self.side.volume.update_access()
        if self.record.state is PairState.SSUS and not self.record.settled:
            # A crash between the split and its flush: some of the last writes may be missing.
            self.side.volume.state.consistent = False
            self.record.state = PairState.PSUE
            self.record.reason = "the controller stopped before the split was on disk"
            self.side.volume.update_access()
        self._task = asyncio.create_task(self._serve(), name=f"pair {self.record.name}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody is left to answer: whoever waits is told so, and a mistake of ours is logged."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pair %s: its owner has failed", self.record.name, exc_info=error)
        self._retired = True
        while not self._inbox.empty():
            _, done = self._inbox.get_nowait()
            if done is not None and not done.done():
                done.set_exception(self._gone())

    def _gone(self) -> RejectedError:
        return RejectedError(
            Code.NOT_FOUND,
            f"pair '{self.record.name}' is not served here any more",
            "trilun pair list shows what there is",
        )

    async def stop(self) -> None:
        """End the task; what it was doing goes on from the record at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def ask(self, asked: Asked) -> Answer:
        """Carry out a command in its turn."""
        self.check_serves()
        return await self._put(asked)

    def check_serves(self) -> None:
        """RejectedError when a command would find nobody, or would have to wait too long."""
        if self._retired:
            raise self._gone()
        if self._inbox.qsize() >= INBOX:
            raise RejectedError(Code.WRONG_STATE, f"pair '{self.record.name}' is busy", "try again")

    def _put(self, item: object) -> asyncio.Future[Answer]:
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait((item, done))
        return done

    def begin_split(
        self, label: str, at: float = 0.0, number: int = 0, *, writable: bool = False
    ) -> asyncio.Future[Answer]:
        """Split now, inside this call; the future ends when that is durable on both sides."""
        self._leader.splitting.begin(label, writable=writable)
        self.record.split_at, self.record.backup_number = at, number
        return self.split_begun()

    def split_begun(self) -> asyncio.Future[Answer]:
        """The instant of a split is now: the future ends when it is durable."""
        return self._put("split begun")

    def take_back_split(self, reason: str) -> None:
        """Mirror again: the other pairs of a group could not be split."""
        self.post(TakeBack(reason))

    def resume_guarded(self) -> None:
        """What the guard split may follow its source again (law L7)."""
        self.post("unguard")

    def retire(self) -> None:
        """The pair is dissolved: the task ends with what it is doing."""
        self._retired = True

    async def mark(self, mark: msg.Mark) -> None:
        """Put a mark into the stream and wait until the other side has acted on it."""
        await self._put(mark)

    def begin_mark(self, mark: msg.Mark) -> asyncio.Future[Answer]:
        """Put a mark into the stream inside this call; the future ends when it was acted on."""
        return self._put(self._leader.splitting.begin_mark(mark))

    def resync_together(
        self, asked: Asked, gate: Gate
    ) -> tuple[asyncio.Future[Channel | None], asyncio.Future[Answer]]:
        """Resynchronise as one pair of a group: see `Together`; the second future is its end."""
        item = Together(asked, asyncio.get_running_loop().create_future(), gate)
        return item.weighed, self._put(item)

    # ------------------------------------------------------------ events from the data path

    def message(self, message: msg.PairMessage) -> None:
        """Take a message at its place in the stream; what can't wait is done here."""
        if self._follower.at_once(message):
            return
        if isinstance(message, msg.Failed):
            self._leader.peer_failed(message.reason)
            return
        if isinstance(message, msg.UnknownPair):
            self._leader.unknown_there(message)
            return
        if isinstance(message, msg.TookOver):
            self.roles.other_took_over()
            return
        if isinstance(message, msg.Report) and self.roles.outranks(message):
            # At once: the other side's owner does nothing else until it has this answer.
            self.talk.send(self.own_report())
        if not self.talk.takes(message):
            self.deliver(message)

    def deliver(self, message: msg.PairMessage) -> None:
        """Deal with a message in its turn, if its epoch still lasts then."""
        self.post(Delivered(message, self.side.channel))

    def opened(self, channel: Channel) -> None:
        """A new epoch: the P-VOL's side begins the conversation."""
        del channel
        self.report = None
        if self.record.role is Role.P_VOL:
            self.post("opened")
        self.services.changed(self.side)

    def lost(self, reason: str) -> None:
        """The epoch has ended."""
        self._move(Event.LINK_LOST, *self.roles.parted(f"link lost: {reason}"))
        self.talk.lost(reason)
        self.post("persist")

    def store_failed(self, error: str) -> None:
        """A store here failed: no mirror is claimed any more."""
        was_active = self.side.mirroring or self.side.sinking
        self.side.part()
        if was_active or self.record.state is not PairState.PSUE:
            self.halt(error, f"mend the volume, then: trilun pair resync {self.record.name}")
            self.talk.send(msg.Failed(reason=error[:500]))
            self.post("persist")

    def halt(self, reason: str, next_step: str) -> None:
        """To PSUE by an error that an operator has to look at."""
        self.record.halted = True
        self.side.part()
        self.quick.give_up()
        self._move(Event.FAILED, reason, next_step)

    def copied(self) -> None:
        """The copier has run out of bits."""
        self.post("copied")

    def post(self, item: object) -> None:
        """Put something into the inbox."""
        self._inbox.put_nowait((item, None))

    # ------------------------------------------------------------ what leader and follower use

    def own_report(self) -> msg.Report:
        """Where this side stands."""
        return report_of(self.side, self.services.use_of(self.side))

    def see_split_brain(self) -> None:
        """Show what the other side's report says of a split-brain, on this side too."""
        if split_brain(self.side, self.report):
            self.record.reason = Rule.SPLIT_BRAIN.value
            self.record.next_step = name_the_victim(self.record)
            self.services.changed(self.side)

    async def drained(self) -> None:
        """Wait until no write of a host is on its way into the volume."""
        await reached(self.side.volume.drained)

    async def all_stored(self) -> None:
        """Wait for the writes that were accepted before now; hosts may go on with others."""
        await reached(self.side.volume.barrier)

    async def caught_up(self) -> None:
        """Wait until everything that is in the inbox now has been dealt with."""
        await self._put("caught up")

    async def _copied(self) -> None:
        leads = self.record.role is Role.P_VOL
        await (self._leader.copied() if leads else self._follower.copied_back())

    async def _caught_up(self) -> None:
        """A mark in the inbox: what came before it has been dealt with."""

    async def save(self) -> None:
        """Make bits and record durable."""
        await finished(self.side.bitmap_file.save)
        await self.services.commit()

    def set_state(self, state: PairState, reason: str = "", next_step: str = "") -> None:
        """Show a new state."""
        if state is not self.record.state:
            log.info("pair %s: %s -> %s %s", self.record.name, self.record.state, state, reason)
        self.record.state = state
        self.record.reason = reason
        self.record.next_step = next_step
        self.side.volume.update_access()
        if self.side.replaced and self.side.volume.access is not Access.NOT_READY:
            # In the very step that lets hosts in again: none may read on from its cache (L12).
            self.side.replaced = False
            self.services.data_replaced(self.side)
        self.services.changed(self.side)

    def _move(self, event: Event, reason: str, next_step: str = "") -> None:
        state = after(self.record.state, event)
        if state is None:
            return
        if state is not self.record.state or state is PairState.PSUE:
            if self.record.halted and event is Event.LINK_LOST:
                return
            self.set_state(state, reason, next_step)

    # ------------------------------------------------------------ the task

    async def _serve(self) -> None:
        while not self._retired:
            item, done = await self._inbox.get()
            try:
                result = await self._handle(item)
            except LinkLost as error:
                self._refuse(
                    done,
                    RejectedError(
                        Code.NO_PEER,
                        f"the other side of '{self.record.name}' went away: {error}",
                        f"trilun pair show {self.record.name} says how it goes on",
                    ),
                )
            except RejectedError as error:
                self._refuse(done, error)
            except StoreError as error:
                first = not self.record.halted
                self.halt(str(error), MEND_METADATA)
                if first:
                    # The other side would wait for this one's part of a copy for ever. Said
                    # once: two sides that both can't write would tell each other without end.
                    self.talk.send(msg.Failed(reason=str(error)[:500]))
                self._refuse(
                    done, RejectedError(Code.IO_ERROR, f"metadata: {error}", MEND_METADATA)
                )
            except BaseException:
                if done is not None and not done.done():
                    done.set_exception(self._gone())
                raise
            else:
                if done is not None and not done.done():
                    done.set_result(result)

    def _refuse(self, done: asyncio.Future[Answer] | None, error: RejectedError) -> None:
        if done is None:
            log.warning("pair %s: %s", self.record.name, error.message)
        elif not done.done():
            done.set_exception(error)

    async def _handle(self, item: object) -> Answer:
        accepted = Answer(Verdict.ACCEPTED, self.record.state, "")
        if isinstance(item, Asked):
            return await self._command(item)
        if isinstance(item, Together):
            return await self._leader.resync_together(item)
        if isinstance(item, msg.Mark | MarkBegun):
            return await self._leader.splitting.mark(item)
        if isinstance(item, str):
            await self._inner[item]()
        elif isinstance(item, Delivered):
            if item.channel is not self.side.channel:
                log.info("pair %s: %r of an old epoch dropped", self.record.name, item.message)
            elif isinstance(item.message, msg.Swap):
                await self.roles.take(item.message)
            elif self.record.role is Role.P_VOL:
                await self._leader.take(item.message)
            else:
                await self._follower.take(item.message)
        elif isinstance(item, msg.SplitDone):
            await self._follower.split_stored(item)
        elif isinstance(item, TakeBack):
            await self._leader.splitting.take_back(item.reason)
        return accepted

    async def _command(self, asked: Asked) -> Answer:
        command, row = met(self.record, asked, self.services.node)
        check_generation(self.record, asked.expect_generation)
        if row.verdict is Verdict.NO_OP and not (
            command is Command.SPLIT and asked.writable and self.record.role is Role.P_VOL
        ):
            if command is Command.SPLIT and self.record.guarded:
                # What the guard split now stays split: the operator said so.
                self.record.guarded = False
                self.record.reason = ""
                self.services.changed(self.side)
                await self.services.commit()
            return row
        if command is Command.QUICK:
            return await self.quick.split(asked, row)
        if command is Command.VERIFY:
            return self._auditor.begin(asked, row)
        await self._steps[command](asked)
        return row
