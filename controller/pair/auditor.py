"""The steps of a verify, as the P-VOL's side takes them.

Owns when a comparison may begin, what its findings mean for the pair, and the repair. Runs inside
the owner's task. What differs is marked, durably, before it is shown; a repair is a forward copy
of the marks, so the P-VOL's data is what both sides have afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import PairState
from controller.pair.asked import Asked
from controller.pair.table import Answer, Command
from controller.service.sizes import format_size
from controller.volume.store import finished

if TYPE_CHECKING:
    from controller.pair.leader import Leader
    from controller.pair.owner import PairOwner
    from controller.pair.verifier import Verifier


class Auditor:
    """Begins and ends comparisons."""

    def __init__(self, owner: PairOwner, leader: Leader) -> None:
        self._owner = owner
        self._leader = leader
        self._side = owner.side
        self._record = owner.record

    def begin(self, asked: Asked, row: Answer) -> Answer:
        """Begin to compare; one that runs already goes on, and takes over the wish to repair."""
        side = self._side
        if side.channel is None or not side.mirroring:
            raise RejectedError(
                Code.NO_PEER,
                f"the other side of '{self._record.name}' can't be reached",
                "restore the link; trilun status shows why it is down",
            )
        running = side.verifier is not None and side.verifier.running
        if running and side.verifier is not None:
            side.verifier.repair |= asked.repair
            return Answer(Verdict.NO_OP, row.state, "it is being compared already")
        side.start_verifier(
            side.channel,
            asked.rate_limit_bytes_per_s,
            lambda: self._owner.post("verified"),
            repair=asked.repair,
        )
        self._owner.services.changed(side)
        return row

    async def ended(self) -> None:
        """Mark what differs, then repair it or say so."""
        side, record, owner = self._side, self._record, self._owner
        verifier = side.verifier
        if verifier is None:
            return
        if len(verifier.found):
            side.bitmap.union(verifier.found)
            await finished(side.bitmap_file.save)
        mirrors = side.mirroring and record.state is PairState.PAIR
        if verifier.repair and len(verifier.found) and mirrors:
            await self._repair(verifier)
        elif len(verifier.found) and mirrors:
            record.reason = f"verify: {format_size(verifier.found.dirty_bytes)} of the S-VOL differ"
            record.next_step = f"trilun pair verify {record.name} --repair"
        verifier.conclude()
        owner.services.changed(side)

    async def _repair(self, verifier: Verifier) -> None:
        side, record, owner = self._side, self._record, self._owner
        report = await self._leader.ask_report()
        if report.in_use:
            record.reason = f"verify found differences, and can't repair them: {report.in_use}"
            record.next_step = f"end that, then: trilun pair verify {record.name} --repair"
            verifier.unrepaired(report.in_use)
            return
        # In one step: from here on writes are marked, until the copy mirrors again.
        side.part()
        verifier.repairing()
        owner.set_state(PairState.COPY)
        try:
            await self._leader.resync(Asked(Command.RESYNC), automatic=True)
        except RejectedError as error:
            verifier.unrepaired(error.message)
            owner.set_state(PairState.PSUE, error.message, error.next_step)
            raise
