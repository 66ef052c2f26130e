"""Takeover and swap: which side holds the P-VOL's role, and when hosts may write to the other.

Owns the steps that change a side's role, or let the S-VOL serve hosts without the P-VOL. Runs
inside the owner's task. The rules:

  - A takeover needs nobody's leave: it is for a P-VOL that can't be asked. A P-VOL that hears of
    one closes its door, so that its hosts don't write a second version.
  - Roles change hands with a number that only grows. Where both sides claim the P-VOL's role, the
    higher number has it, and the other yields.
  - In a planned swap the P-VOL closes its door durably before it offers its role, and opens it
    again only when it knows that the offer was not taken, or when an operator says that it is to
    lead all the same: under a number beyond the one that was offered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import PairKind, PairState, Role
from controller.pair import messages as msg
from controller.pair.conversation import LinkLost
from controller.pair.record import Goal
from controller.pair.side import PairSide
from controller.pair.standing import may_be_source, turned_down
from controller.volume.store import finished

if TYPE_CHECKING:
    from controller.pair.owner import PairOwner

TAKEN_OVER = "the S-VOL has taken over"
OFFERED = "the P-VOL's role was offered, and the other side may have taken it"
RESUMES = "it resumes when the link is back"


def ways_back(name: str) -> str:
    """What an operator may do behind a takeover."""
    return (
        f"give back: trilun pair resync {name} --reverse; or go on there: trilun pair swap {name} "
        f"--to NODE; "
        f"or give up what was written there: trilun pair resync {name} --forward"
    )


class Roles:
    """Steps of either side."""

    def __init__(self, owner: PairOwner, check_exclusive: Callable[..., None]) -> None:
        self._owner = owner
        self._check_exclusive = check_exclusive
        self._side = owner.side
        self._record = owner.record

    # ------------------------------------------------------------ takeover

    async def take_over(self) -> None:
        """S-VOL's side: hosts may write here from now on."""
        record, side, owner = self._record, self._side, self._owner
        self._check_remote("split it, with --writable")
        volume = side.volume
        if not (volume.state.healthy and volume.state.consistent):
            raise RejectedError(
                Code.NOT_CONSISTENT,
                f"'{volume.name}' holds no point in time",
                "copy one back from its third volume first: trilun pair resync LOCAL --reverse",
            )
        side.part()
        record.goal = "split"
        record.halted = record.guarded = record.settled = False
        record.writable = True
        owner.set_state(PairState.SSWS, "hosts may write here", ways_back(record.name))
        # The source's last writes come before the hosts', and are to stay.
        await owner.all_stored()
        await finished(volume.settle)
        record.settled = True
        await owner.services.commit()
        volume.update_access()
        owner.talk.send(msg.TookOver())

    def other_took_over(self) -> None:
        """P-VOL's side: no second version of the data may come to be."""
        record = self._record
        record.closed = "taken over"
        self._owner.set_state(record.state, TAKEN_OVER, ways_back(record.name))
        self._owner.see_split_brain()
        self._owner.post("persist")

    # ------------------------------------------------------------ swap

    async def swap(self, *, force: bool) -> None:
        """Exchange the roles: behind a takeover alone, else by agreement."""
        self._check_remote("delete it and create it the other way")
        if self._record.state is PairState.SSWS:
            swaps = self._record.swaps + 1
            await self._claim(
                swaps, "split", PairState.PSUS, "the other side yields when it is back"
            )
            self._owner.post("opened")
        else:
            await self._hand_over(force=force)

    async def _hand_over(self, *, force: bool) -> None:
        """P-VOL's side: offer the role, with no write of a host on its way."""
        record, side, owner = self._record, self._side, self._owner
        channel = owner.talk.epoch()
        self._check_exclusive(force=force)
        for tracker in side.volume.trackers:
            if (
                isinstance(tracker, PairSide)
                and tracker is not side
                and tracker.record.role is Role.S_VOL
            ):
                raise RejectedError(
                    Code.IN_USE,
                    f"'{record.volume}' is the S-VOL of pair '{tracker.record.name}', and can't be "
                    "one of two",
                    f"delete that first: trilun pair delete {tracker.record.name}",
                )
        record.closed = "swapping"
        owner.set_state(record.state, *self.parted("the roles are being exchanged"))
        try:
            await owner.drained()
            await owner.services.commit()
            owner.talk.still(channel)
        except LinkLost:
            await self._open_again()
            raise
        offer = msg.Swap(swaps=record.swaps + 1)
        reply = await owner.talk.converse(offer, msg.Swapped, msg.Refused)
        owner.talk.still(channel)
        await self.answered(reply)
        if isinstance(reply, msg.Refused):
            raise turned_down(record, reply)

    async def answered(self, reply: msg.Message) -> None:
        """The answer to the offer, which may come when nobody waits for it any more."""
        record = self._record
        if record.closed != "swapping":
            return
        if isinstance(reply, msg.Refused):
            await self._open_again()
        else:
            await self._yield(record.swaps + 1, equal=True)

    async def keep(self, *, force: bool) -> None:
        """P-VOL's side whose offer had no answer: it goes on, by an operator's word alone.

        The other side may have taken the role, and its hosts may have written. So this one takes
        a number beyond the one it offered: the other yields when it is back. And it is split: what
        is copied which way is for the generations, and for a command.
        """
        record, owner = self._record, self._owner
        volume = self._side.volume
        if self._side.channel is not None:
            raise RejectedError(
                Code.WRONG_STATE,
                f"the other side of '{record.name}' can be asked who has the P-VOL's role",
                f"wait for it: trilun pair wait {record.name} PAIR",
            )
        if not force:
            raise RejectedError(
                Code.WRONG_STATE,
                f"the other side of '{record.name}' may have the P-VOL's role, and hosts that "
                "write to it",
                f"where it will not come back: {self._keeping()}",
            )
        if not volume.state.healthy:
            raise RejectedError(
                Code.NOT_CONSISTENT,
                f"volume '{volume.name}' has failed",
                f"let hosts use the other side: trilun pair takeover {record.name}",
            )
        record.swaps += 2
        record.goal = "split"
        record.halted = record.guarded = record.writable = False
        record.label = record.instant = ""
        # The door opens when the number is on disk, and not before.
        await owner.save()
        record.closed = ""
        owner.set_state(PairState.PSUS, "it kept the P-VOL's role; the other side yields to it")
        await owner.services.commit()

    def _keeping(self) -> str:
        return f"trilun pair swap {self._record.name} --to {self._owner.services.node} --force"

    def parted(self, why: str) -> tuple[str, str]:
        """Reason and next step while the other side is away: who knows who leads?"""
        if self._record.closed != "swapping":
            return why, RESUMES
        return (
            f"{why}; hosts' writes are refused: {OFFERED}",
            f"{RESUMES}; where the other side will not come back: {self._keeping()}",
        )

    async def take(self, swap: msg.Swap) -> None:
        """S-VOL's side: the P-VOL offers its role."""
        record, side, owner = self._record, self._side, self._owner
        channel = owner.talk.epoch()
        if record.role is Role.P_VOL and record.swaps == swap.swaps:
            # Offered once more, by a side that did not wait for the first answer.
            owner.talk.send(msg.Swapped())
            return
        if record.state is PairState.PAIR and side.sinking and may_be_source(side):
            await owner.all_stored()
            await finished(side.volume.settle)
            owner.talk.still(channel)
        if record.state is not PairState.PAIR or not side.sinking or not may_be_source(side):
            owner.talk.send(msg.Refused(reason=f"the S-VOL is in {record.state}"))
            return
        await self._claim(swap.swaps, "mirror", PairState.PSUE, "the other side is about to follow")
        owner.talk.still(channel)
        owner.talk.send(msg.Swapped())

    async def _claim(self, swaps: int, goal: Goal, state: PairState, reason: str) -> None:
        """Become the P-VOL's side, durably."""
        record, side, owner = self._record, self._side, self._owner
        side.part()
        record.swaps = swaps
        record.goal = goal
        record.writable = False
        record.settled = True
        self._change_role(Role.P_VOL)
        owner.set_state(state, f"the roles were swapped; {reason}")
        await owner.save()

    async def _yield(self, swaps: int, *, equal: bool) -> None:
        """Become the S-VOL's side, durably; the other one waits to hear so."""
        record, side, owner = self._record, self._side, self._owner
        side.part()
        record.swaps = swaps
        record.goal = "mirror"
        record.closed = ""
        record.halted = record.guarded = record.writable = record.settled = False
        self._change_role(Role.S_VOL)
        owner.set_state(PairState.PSUE, "the roles were swapped; the P-VOL's side goes on")
        await owner.all_stored()
        await finished(side.volume.settle)
        # Only what both sides held is a point in time that a late split may find here.
        record.settled = equal
        await owner.save()
        owner.talk.send(owner.own_report())

    def _change_role(self, role: Role) -> None:
        record = self._record
        was = record.role
        record.half = record.half or ("p" if was is Role.P_VOL else "s")
        record.role = role
        record.label = ""
        self._owner.services.role_changed(self._side, was)

    def outranks(self, report: msg.Report) -> bool:
        """Whether the other side claims this side's role, and is to yield."""
        record = self._record
        return record.role is report.role is Role.P_VOL and record.swaps > report.swaps

    async def agreed(self, report: msg.Report) -> bool:
        """Whether this side holds the P-VOL's role, as both sides see it; it may yield here."""
        record = self._record
        if report.role is Role.S_VOL:
            if record.closed == "swapping" and report.state is not PairState.SSWS:
                await self._open_again()
            return True
        if report.swaps > record.swaps:
            await self._yield(report.swaps, equal=False)
        elif report.swaps == record.swaps:
            self._owner.halt(
                "both sides hold the P-VOL's role",
                f"delete the pair on one of them alone: trilun pair delete {record.name} --force",
            )
            await self._owner.services.commit()
        return False

    async def _open_again(self) -> None:
        """The offer was not taken, or never made."""
        record, owner = self._record, self._owner
        record.closed = ""
        if record.halted:
            self._side.volume.update_access()
        elif record.state is PairState.PSUE:
            owner.set_state(record.state, *self.parted("the roles were not exchanged"))
        else:
            owner.set_state(record.state)
        await owner.services.commit()

    def _check_remote(self, instead: str) -> None:
        if self._record.kind is PairKind.LOCAL:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"'{self._record.name}' is a local pair: one controller has both sides",
                instead,
            )
