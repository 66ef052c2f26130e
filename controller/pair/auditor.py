"""The steps of a verify, as the P-VOL's side takes them.

Owns when a comparison may begin, what its findings mean for the pair, and the repair. Runs inside
the owner's task. What differs is marked, durably, before a verify is shown as ended; a repair
copies the marks, so the P-VOL's data is what both sides have afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import PairState, VerifyState
from controller.pair.asked import Asked
from controller.pair.table import Answer
from controller.pair.verifier import Verifier
from controller.service.sizes import format_size
from controller.volume.store import StoreError, finished

if TYPE_CHECKING:
    from controller.pair.owner import PairOwner


class Auditor:
    """Begins and ends comparisons."""

    def __init__(self, owner: PairOwner) -> None:
        self._owner = owner
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
        last = side.verifier
        if last is not None and last.state in (VerifyState.RUNNING, VerifyState.REPAIRING):
            last.repair |= asked.repair
            return Answer(Verdict.NO_OP, row.state, "it is being compared already")
        verifier = Verifier(
            side.volume,
            side.bitmap,
            side.channel,
            side.clock,
            asked.rate_limit_bytes_per_s,
            lambda: self._owner.post("verified"),
            repair=asked.repair,
        )
        side.verifier, side.reader = verifier, verifier.reader
        verifier.pump()
        self._owner.services.changed(side)
        return row

    async def ended(self) -> None:
        """Make the marks durable, then repair what differs or say so."""
        side, record = self._side, self._record
        verifier = side.verifier
        if verifier is None:
            return
        try:
            await finished(side.bitmap_file.save)
        except StoreError as error:
            verifier.conclude(str(error))
            raise
        # What an earlier one found and nobody repaired is marked still.
        if side.bitmap.dirty_bytes and side.mirroring and record.state is PairState.PAIR:
            if verifier.repair:
                self._repair(verifier)
            else:
                record.reason = (
                    f"verify: {format_size(side.bitmap.dirty_bytes)} of the S-VOL differ"
                )
                record.next_step = f"trilun pair verify {record.name} --repair"
        verifier.conclude()
        self._owner.services.changed(side)

    def _repair(self, verifier: Verifier) -> None:
        """Copy the marks in the stream, without leaving PAIR.

        Each block that arrives makes the S-VOL what the P-VOL is at that point of the stream, as
        every other block is already: there is no half of two points in time to guard (law L7).
        """
        side, owner = self._side, self._owner
        assert side.channel is not None

        def failed(error: StoreError) -> None:
            owner.store_failed(str(error))

        verifier.repairing()
        side.begin_resync()
        side.union_bytes = side.bitmap.dirty_bytes
        side.start_copier(side.channel, lambda: owner.post("repaired"), failed)

    async def repaired(self) -> None:
        """Every mark is copied, flushed on both sides and cleared: say so, on disk too."""
        side, record = self._side, self._record
        verifier, copier = side.verifier, side.copier
        if verifier is None or copier is None or not copier.ended:
            return
        side.end_copier()
        side.counting_wire = False
        await finished(side.bitmap_file.save)
        verifier.copied()
        if record.state is PairState.PAIR:
            record.reason = record.next_step = ""
        self._owner.services.changed(side)
