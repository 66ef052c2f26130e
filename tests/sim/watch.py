"""What sides of pairs do to each other's volumes, seen frame by frame (laws L2, L7, L8).

Owns the watch over one machine's sides: it stands before what a side is told by the other one
and by its volume, notes it, and passes it on unchanged. Must not know how the controller gets
there; what it reports is wrong whatever the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controller.api.messages import PairState, Role
from controller.pair.asked import Asked
from controller.pair.owner import PairOwner
from controller.pair.side import PairSide
from controller.volume.bitmap import block_range
from targets.lun import Access
from tests.sim.disk import Image
from tests.sim.laws import first_difference

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.oracle import Oracle

COPYING = (PairState.COPY, PairState.RCPY)


class SideWatch:
    """Stands before one side for as long as its controller runs."""

    def __init__(self, oracle: Oracle, machine: Machine, side: PairSide) -> None:
        self._oracle = oracle
        self._machine = machine
        self._epoch = machine.epoch
        self.side = side
        self.key = (machine.name, side.record.volume)
        self._role = side.record.role
        self._copied: dict[int, int] = {}
        """Blocks that a copy has written here, and the number of that write on the disk."""
        self._on_write, self._on_discard = side.on_write, side.on_discard
        self._begin_generation, self._clear = side.begin_generation, side.bitmap.clear
        taken: Any = side
        taken.on_write, taken.on_discard = self._written, self._discarded
        taken.begin_generation = self._generation_begun
        taken.bitmap.clear = self._cleared

        if isinstance(side.events, PairOwner):
            self._quick_begin = side.events.quick.begin
            quick: Any = side.events.quick
            quick.begin = self._quickly_split

    @property
    def runs(self) -> bool:
        """Whether this is a side that still is, of a controller that still runs."""
        return (
            self._machine.up
            and self._machine.epoch is self._epoch
            and self.side in self.side.volume.trackers
        )

    # ------------------------------------------------------------ what comes from the other side

    def _written(self, offset_bytes: int, data: memoryview, *rest: Any, copy: bool) -> None:
        before = self._arrives(copy=copy)
        size = len(data)
        self._on_write(offset_bytes, data, *rest, copy=copy)
        self._arrived(before, offset_bytes, size, copy=copy)

    def _discarded(self, offset_bytes: int, length_bytes: int, *rest: Any, copy: bool) -> None:
        before = self._arrives(copy=copy)
        self._on_discard(offset_bytes, length_bytes, *rest, copy=copy)
        self._arrived(before, offset_bytes, length_bytes, copy=copy)

    def _arrives(self, *, copy: bool) -> int:
        """A frame is about to take effect: is this volume a point in time after that?"""
        side, record = self.side, self.side.record
        key = self.key
        tracked = self._oracle.volumes.get(key)
        other = self._oracle.watch_of_other(record)
        if tracked is None or not side.sinking or record.state not in COPYING:
            return self._image.last_sequence
        # What a lost connection still carries comes in order: bits set since it was lost are for
        # the next one to bring.
        lacks = other is not None and other.side.channel is not None and len(other.side.bitmap)
        if copy or len(side.bitmap) or lacks:
            tracked.half = record.id
            self._nobody_relies_on(key)
        return self._image.last_sequence

    def _nobody_relies_on(self, key: tuple[str, str]) -> None:
        """Law L7: hosts are out, and what mirrors the volume was split before."""
        volume = self.side.volume
        if volume.access is not Access.NOT_READY:
            self._oracle.broken(
                "L7", f"{key[0]}/{key[1]} is {volume.access.value} to hosts and half copied"
            )
        for owner in self._machine.node.pairs.of_volume(key[1]):
            record = owner.record
            if (
                owner.side is not self.side
                and record.role is Role.P_VOL
                and record.state is PairState.PAIR
                and owner.side.mirroring
            ):
                self._oracle.broken(
                    "L7",
                    f"{key[0]}/{key[1]} is half copied, and '{record.name}' in PAIR mirrors that",
                )

    @property
    def _image(self) -> Image:
        return self._machine.file_of(self.side.record.volume)

    def _arrived(self, before: int, offset_bytes: int, length_bytes: int, *, copy: bool) -> None:
        if not copy:
            return
        end = offset_bytes + length_bytes
        for write in reversed(self._image.pending):
            if write.sequence <= before:
                break
            if offset_bytes <= write.offset_bytes < end:
                first, count = block_range(write.offset_bytes, len(write.data))
                for block in range(first, first + count):
                    self._copied[block] = write.sequence

    def unflushed(self, first: int, count: int) -> int | None:
        """A block of these that a copy has written here and that could be lost in a crash."""
        if not self._copied:
            return None
        pending = {write.sequence for write in self._image.pending}
        for block in range(first, first + count):
            if self._copied.pop(block, None) in pending:
                return block
        return None

    # ------------------------------------------------------------ what this side makes of it

    def _cleared(self, first: int, count: int) -> None:
        """Law L2: what a copy has brought is flushed there before a bit is cleared."""
        record = self.side.record
        behind = self.side.behind is not None
        if behind or (record.state in COPYING and self.side.copier is not None):
            watch = self._oracle.watch_of_other(record)
            block = watch.unflushed(first, count) if watch is not None else None
            if block is not None:
                self._oracle.broken(
                    "L2",
                    f"'{record.name}' clears the bit of block {block}, which {record.other_volume} "
                    "has not flushed",
                )
        self._clear(first, count)

    def _quickly_split(self, asked: Asked) -> str:
        """Keep what the P-VOL holds at the instant of a quick split (law L11)."""
        refusal = self._quick_begin(asked)
        if not refusal:
            self._oracle.quick[self.side.record.id] = bytes(self._image.live)
            self._oracle.event(
                f"quick split of '{self.side.record.name}': {len(self.side.bitmap)} blocks are owed"
            )
        return refusal

    def _generation_begun(self, generation: str) -> None:
        """Law L8: the first write begins a generation, and nothing else does."""
        if self.side.volume._queue:
            self._oracle.generations.add(generation)
        self._begin_generation(generation)
        self.check_generation()

    def note_role(self) -> None:
        """Law L8: who takes over the P-VOL's role by agreement has what its hosts wrote."""
        record, oracle = self.side.record, self._oracle
        was, self._role = self._role, record.role
        if record.role is was or record.role is not Role.P_VOL or record.goal != "mirror":
            return
        if record.name in oracle.alone:
            # An offer that arrives late, while an operator has let the old P-VOL go on.
            return
        other = oracle.watch_of_other(record)
        assert record.peer is not None
        tracked = oracle.volumes[record.peer, record.other_volume]
        at = first_difference(self._image.live, other._image.live) if other is not None else None
        wrong = tracked.history.wrong_after_crash(self._image.live)
        if at is not None or wrong is not None:
            oracle.broken(
                "L8",
                f"{record.volume} takes over the role of {record.other_volume} and lacks what was "
                f"written there: {wrong or f'at byte {at}'}",
            )
        tracked.written = False
        tracked.given_over = (oracle.tick(), bytes(self._image.live))

    def check_generation(self) -> None:
        """A generation of its own is one that a write has begun."""
        record = self.side.record
        if record.current != record.baseline and record.current not in self._oracle.generations:
            self._oracle.broken(
                "L8",
                f"'{record.name}', {record.role}, is at a generation of its own, and nothing was "
                f"written to {record.volume} since the sides parted",
            )

    def check_mirror(self) -> None:
        """Law L3 at any time: a mirror with nothing on its way is equal, hot extents or not."""
        record = self.side.record
        other = self._oracle.watch_of_other(record)
        if record.role is not Role.P_VOL or other is None:
            return
        sides = (self.side, other.side)
        at_rest = all(side.record.state is PairState.PAIR and side.volume.idle for side in sides)
        if not (at_rest and self.side.mirroring and other.side.sinking):
            return
        at = first_difference(self._image.live, other._image.live)
        if at is not None:
            self._oracle.broken(
                "L3",
                f"'{record.name}' is in PAIR with nothing on its way, and {record.other_volume} "
                f"differs at byte {at} (block {at // 4096})",
            )

    def check_verifier(self, *, reads_fail: bool) -> None:
        """Sides in PAIR are equal at every point of the stream: a verify finds nothing."""
        verifier = self.side.verifier
        if verifier is not None and len(verifier.found) and not reads_fail:
            self._oracle.broken(
                "VERIFY", f"'{self.side.record.name}': a verify found {list(verifier.found.runs())}"
            )
