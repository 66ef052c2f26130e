"""The oracle: sees every step of every machine, and says which law is broken.

Owns what is known from outside: the hosts' histories, the images of split volumes, what operators
asked for. It reads the controllers' state and images but never changes them. The first broken
law ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from controller.api.messages import Direction, PairState, Role
from controller.catalogue import VolumeRecord
from controller.pair.record import OPEN_TO_HOSTS, PairRecord
from controller.pair.side import PairSide
from controller.volume.intent import IntentRecord
from controller.volume.volume import Volume
from targets.lun import Access
from tests.sim import laws
from tests.sim.history import History, Version
from tests.sim.loop import WORLD
from tests.sim.machine import Machine
from tests.sim.trace import Trace
from tests.sim.watch import SideWatch

Key = tuple[str, str]
"""Machine and volume."""


@dataclass
class Tracked:
    """What is known of one volume."""

    history: History
    access: Access = Access.READ_WRITE
    written: bool = False
    """A host's write was acknowledged since the content was last replaced."""
    copied_back: bool = False
    """A reverse copy into it has begun."""
    copied_into: bool = False
    """Data was written while it was the target of one."""
    followed: bool = False
    """It was an S-VOL that hosts can't write to: somebody else changed it."""
    frozen: bytes | None = None
    """The image of the split, while it is a split S-VOL that hosts can't write to."""
    given_over: tuple[int, bytes] = (0, b"")
    """When another side took the P-VOL's role from it, and what that one held then."""
    flush_failed_at: int | None = None
    volume_id: str = ""
    half: str = ""
    """The id of the pair whose copy into it has begun and not ended: no point in time."""

    def is_volume(self, volume_id: str) -> None:
        """It is there: one that was made anew is empty, and nobody's copy."""
        if self.volume_id == volume_id:
            return
        self.volume_id = volume_id
        self.history.reset()
        self.written = self.followed = False
        self.copied_back = self.copied_into = False
        self.frozen = self.flush_failed_at = None
        self.half = ""


class Broken(Exception):  # noqa: N818  (an event of the run)
    """A law is broken."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(f"{law}: {text}")
        self.law = law


@dataclass
class Oracle:
    """Implements `machine.Watcher`."""

    trace: Trace
    machines: dict[str, Machine] = field(default_factory=dict)
    volumes: dict[Key, Tracked] = field(default_factory=dict)
    named: set[tuple[str, str]] = field(default_factory=set)
    """(pair, direction) that an operator asked for since the pair was last in sync."""
    alone: set[str] = field(default_factory=set)
    """Pairs of which an operator let one side lead without the other's word, since they were last
    in sync."""
    asking: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Commands under way that name a pair and a direction."""
    broke: list[Broken] = field(default_factory=list)
    quick: dict[str, bytes] = field(default_factory=dict)
    """By pair id: what the P-VOL held at the instant of its last quick split."""
    logs: dict[Key, tuple[int, IntentRecord | None]] = field(default_factory=dict)
    """What each log says on disk, with the version of the file."""
    watches: dict[str, SideWatch] = field(default_factory=dict)
    """By the name of a side's bitmap: who watches the sides that run now."""
    generations: set[str] = field(default_factory=set)
    """Those that a write has begun."""
    on_state: Callable[[PairRecord], None] = lambda _record: None
    """Told when a pair has come to another state."""
    states: dict[tuple[str, Role], PairState] = field(default_factory=dict)
    reads_fail: bool = False
    """A block that can't be read is one that differs, to a verify."""
    now: int = 0
    writes: int = 0

    def tick(self) -> int:
        """Count an event."""
        self.now += 1
        return self.now

    def new_version(self, *, zero: bool) -> Version:
        """A write or discard that begins now."""
        self.writes += 1
        return Version(self.writes, zero=zero, started=self.tick())

    def event(self, text: str) -> None:
        """A line of the trace."""
        self.trace.line(text)

    def broken(self, law: str, text: str) -> None:
        """A law is broken: the run ends with this."""
        self.trace.line(f"BROKEN {law}: {text}")
        self.broke.append(Broken(law, text))

    # ------------------------------------------------------------ steps of a controller

    def volume_changed(self, machine: Machine, volume: Volume) -> None:
        """Something about a volume changed in this step."""
        key = (machine.name, volume.name)
        self._watch_sides(machine, volume)
        tracked = self.volumes.get(key)
        if tracked is None:
            return
        tracked.is_volume(machine.volume_id(volume.name))
        records = [owner.record for owner in machine.node.pairs.of_volume(volume.name)]
        was_copied_back = tracked.copied_back
        if any(r.role is Role.P_VOL and r.state is PairState.RCPY for r in records):
            if not tracked.copied_back:
                self._overwritten(key, tracked, records, Role.P_VOL)
                tracked.copied_into = False
            tracked.copied_back = True
            tracked.frozen = None
        elif tracked.copied_back and volume.access is not Access.READ_WRITE:
            self._forget_copy(tracked, records)
        old, tracked.access = tracked.access, volume.access
        if old is not volume.access:
            self.event(f"{machine.name}/{volume.name} is {volume.access.value} to hosts")
        s_record = next((r for r in records if r.role is Role.S_VOL), None)
        tracked.followed |= s_record is not None and volume.access is not Access.READ_WRITE
        if volume.access is Access.READ_WRITE and old is not volume.access:
            self._opened(machine, key, tracked, records)
        self._freeze(machine, key, tracked, s_record)
        for record in records:
            self._one_leads(volume, record)
            if record.state is PairState.PAIR:
                # A command that waits behind others still counts.
                self.named -= {
                    (record.name, direction.value)
                    for direction in Direction
                    if not self.asking[record.name, direction.value]
                }
            if self.states.get((record.id, record.role)) is not record.state:
                self.states[record.id, record.role] = record.state
                if record.role is Role.S_VOL and record.state is PairState.COPY:
                    self._overwritten(key, tracked, records, Role.S_VOL)
                elif record.role is Role.S_VOL and record.state is PairState.PAIR:
                    # What its hosts wrote was given up, or is on the P-VOL as well.
                    tracked.written = False
                self.on_state(record)
        self._point_in_time(machine, volume, tracked, records, copied_back=was_copied_back)

    def _one_leads(self, volume: Volume, record: PairRecord) -> None:
        """Law L8: two sides never take writes as the P-VOL's by agreement."""
        other = self.watch_of_other(record)
        if other is not None and record.state is other.side.record.state is PairState.PAIR:
            self.alone.discard(record.name)
        if other is None or record.name in self.alone:
            return
        open_to_hosts = {volume.access, other.side.volume.access} == {Access.READ_WRITE}
        if open_to_hosts and record.role is other.side.record.role is Role.P_VOL:
            self.broken(
                "L8",
                f"'{record.name}': {volume.name} and {other.side.volume.name} both take hosts' "
                "writes as the P-VOL, and no operator let one lead alone",
            )

    @staticmethod
    def _forget_copy(tracked: Tracked, records: list[PairRecord]) -> None:
        """A copy back that is over before hosts are let in, for another pair's sake."""
        if not any(r.role is Role.P_VOL and r.goal == "reverse" for r in records):
            tracked.copied_back = tracked.copied_into = False
            tracked.followed = True

    def _watch_sides(self, machine: Machine, volume: Volume) -> None:
        for tracker in volume.trackers:
            assert isinstance(tracker, PairSide)
            key = tracker.record.bitmap_name
            known = self.watches.get(key)
            if known is None:
                # Made while its controller was stopping, it may have been written already.
                self.generations.add(tracker.record.current)
            if known is None or known.side is not tracker:
                self.watches[key] = SideWatch(self, machine, tracker)
            self.watches[key].note_role()

    def watch_of_other(self, record: PairRecord) -> SideWatch | None:
        """Who watches the other side of a pair, while that runs."""
        both = (self.watches.get(f"{record.id}.{half}.bitmap") for half in "ps")
        return next((w for w in both if w and w.runs and w.side.record is not record), None)

    def _point_in_time(
        self,
        machine: Machine,
        volume: Volume,
        tracked: Tracked,
        records: list[PairRecord],
        *,
        copied_back: bool,
    ) -> None:
        """Law L7: a half copied volume is shown to nobody, and nothing is in sync with it."""
        # The pair that copies into it first: others follow what that one has ended.
        for record in sorted(records, key=lambda each: each.id != tracked.half):
            if not tracked.half:
                break
            watch = self.watch_of_other(record)
            source = self.volumes.get(watch.key) if watch is not None else None
            if source is not None and source.half == record.id:
                continue  # its copy goes the other way: by that, nothing becomes whole here
            whole = record.state is PairState.PAIR and tracked.half == record.id
            whole |= tracked.half == record.id and self._copied_behind(machine, record)
            if record.role is Role.P_VOL and record.goal == "mirror" and not whole:
                # A link that went at the very end of a copy back leaves a whole P-VOL. A copy
                # back of one pair ends what another pair's copy has begun.
                mine = tracked.half == record.id
                whole = (mine or copied_back) and self._differs_at(machine, record) is None
            if not whole:
                continue
            if source is not None and source.half and record.state is not PairState.SSUS:
                self.broken("L7", f"'{record.name}' is in sync with a half copied volume")
            tracked.half = ""
        if tracked.half and volume.access is not Access.NOT_READY:
            self.broken(
                "L7",
                f"{machine.name}/{volume.name} is half copied and {volume.access.value} to hosts",
            )

    def _copied_behind(self, machine: Machine, record: PairRecord) -> bool:
        """Law L11: at the end of the copy behind it, a quick split's S-VOL is its instant."""
        if (
            record.role is Role.P_VOL
            or record.state is not PairState.SSUS
            or record.id not in self.quick
        ):
            return False
        self.event(f"quick split of '{record.name}': {record.volume} is whole")
        at = laws.first_difference(machine.image_of(record.volume), self.quick[record.id])
        if at is not None:
            self.broken(
                "L11",
                f"'{record.name}' was split quickly, and {record.volume} is not what "
                f"{record.other_volume} was then, at byte {at} (block {at // 4096})",
            )
        return True

    def look(self) -> None:
        """What can be seen at any time."""
        for watch in self.watches.values():
            if watch.runs:
                watch.check_generation()
                watch.check_mirror()
                watch.check_verifier(reads_fail=self.reads_fail)

    def _owe_attention(self, machine: Machine, name: str) -> None:
        """Law L12: hosts that are let in behind a copy back are told that the data changed."""
        given, exporter = machine.attentions(name), machine.exporter

        def check() -> None:
            if machine.up and machine.exporter is exporter and machine.attentions(name) <= given:
                self.broken(
                    "L12", f"hosts of {machine.name}/{name} were not told that its data changed"
                )

        machine.loop.call_soon(check, context=WORLD)

    def _overwritten(
        self, key: Key, tracked: Tracked, records: list[PairRecord], role: Role
    ) -> None:
        """Law L8: what hosts wrote is given up only where an operator named the direction."""
        direction = "reverse" if role is Role.P_VOL else "forward"
        state = PairState.RCPY if role is Role.P_VOL else PairState.COPY
        for record in records:
            if record.role is role and record.state is state and tracked.written:
                if (record.name, direction) not in self.named:
                    self.broken(
                        "L8",
                        f"{key[0]}/{key[1]} was written by hosts and is overwritten by "
                        f"'{record.name}', which nobody asked to copy {direction}",
                    )
                tracked.written = False

    def _opened(
        self, machine: Machine, key: Key, tracked: Tracked, records: list[PairRecord]
    ) -> None:
        """Hosts may write from here on."""
        name = key[1]
        if tracked.copied_back:
            self._kept_on_p(machine, records)
        for record in records:
            if record.role is Role.P_VOL and record.state is PairState.PAIR and tracked.copied_back:
                self._same_as_source(machine, record)
                self._rebase(machine, key, tracked)
                self._owe_attention(machine, name)
                return
        replaced = tracked.followed or (
            tracked.copied_back and (tracked.copied_into or self._copied_whole(machine, records))
        )
        if tracked.copied_back and tracked.copied_into and not tracked.followed:
            # The link went in the very end of a copy back.
            self._owe_attention(machine, name)
        # A copy back that was refused before it began leaves what hosts wrote.
        tracked.copied_back = False
        if replaced:
            self._rebase(machine, key, tracked)
        self.event(f"{key[0]}/{name} may be written by hosts")

    def _kept_on_p(self, machine: Machine, records: list[PairRecord]) -> None:
        """What hosts wrote to the S-VOL is on the P-VOL now: to overwrite it gives nothing up."""
        for record in records:
            source = self.volumes.get((record.peer or machine.name, record.other_volume))
            if record.role is Role.P_VOL and record.goal == "mirror" and source is not None:
                source.written &= self._differs_at(machine, record) is not None

    def _copied_whole(self, machine: Machine, records: list[PairRecord]) -> bool:
        """The copy back had ended, and the link went before both sides knew."""
        return any(
            record.role is Role.P_VOL
            and record.goal == "mirror"
            and self._differs_at(machine, record) is None
            for record in records
        )

    def _same_as_source(self, machine: Machine, record: PairRecord) -> None:
        """Laws L3 and L6: at the end of a copy back both sides are equal."""
        at = self._differs_at(machine, record)
        if at is not None:
            self.broken(
                "L6",
                f"'{record.name}' was copied back, and {record.volume} differs from "
                f"{record.other_volume} at byte {at}",
            )

    def _differs_at(self, machine: Machine, record: PairRecord) -> int | None:
        source = self.machines[record.peer] if record.peer else machine
        if not source.has_file(record.other_volume):
            return 0
        theirs = source.image_of(record.other_volume)
        return laws.first_difference(machine.image_of(record.volume), theirs)

    def _rebase(self, machine: Machine, key: Key, tracked: Tracked) -> None:
        name = key[1]
        images: list[bytes | bytearray] = [machine.image_of(name)]
        durable = machine.durable_image_of(name)
        pending = machine.pending_images_of(name)
        if pending:
            images += [durable, *pending]
        tracked.history.rebase(images, self.tick(), durable=not pending)
        tracked.written = False
        tracked.copied_back = tracked.copied_into = tracked.followed = False

    def _freeze(
        self, machine: Machine, key: Key, tracked: Tracked, record: PairRecord | None
    ) -> None:
        """Keep the image of the split from the step in which it happened."""
        split = record is not None and record.state is PairState.SSUS and not record.writable
        if not split or tracked.access is Access.NOT_READY:
            # Also while it is the target of a copy back, which may change it.
            tracked.frozen = None
        elif tracked.frozen is None:
            tracked.frozen = machine.image_of(key[1])

    # ------------------------------------------------------------ starts and crashes

    def booted(self, machine: Machine) -> None:
        """A controller has started: what its volumes hold, and how it shows them."""
        for shelved in machine.node.volumes.all():
            name = shelved.record.name
            key = (machine.name, name)
            tracked = self.volumes.get(key)
            if tracked is None:
                continue
            tracked.flush_failed_at = None
            tracked.is_volume(shelved.record.id)
            volume = shelved.volume
            self._watch_sides(machine, volume)
            owners = machine.node.pairs.of_volume(name)
            s_record = next((o.record for o in owners if o.record.role is Role.S_VOL), None)
            image = machine.image_of(name)
            if volume.access is not Access.NOT_READY and (
                s_record is None or (s_record.writable and s_record.state in OPEN_TO_HOSTS)
            ):
                if not tracked.followed and not (tracked.copied_back and tracked.copied_into):
                    wrong = tracked.history.wrong_after_crash(image)
                    if wrong is not None:
                        self.broken("L5", f"after a restart of {machine.name}, {name}: {wrong}")
                self._rebase_kept(machine, key, tracked)
            if (
                s_record is not None
                and s_record.state is PairState.SSUS
                and not s_record.writable
                and volume.state.consistent
                and tracked.frozen is not None
                and image != tracked.frozen
            ):
                at = laws.first_difference(image, tracked.frozen) or 0
                self.broken(
                    "L7",
                    f"after a restart of {machine.name}, split {name} is no longer what it "
                    f"was at the split, at byte {at} (block {at // 4096})",
                )
            tracked.access = volume.access
            tracked.followed |= s_record is not None and volume.access is not Access.READ_WRITE
            tracked.copied_back = volume.access is Access.NOT_READY and any(
                o.record.role is Role.P_VOL and o.record.goal == "reverse" for o in owners
            )
            self._freeze(machine, key, tracked, s_record)
            records = [owner.record for owner in owners]
            self._kept_on_p(machine, records)
            self._point_in_time(machine, volume, tracked, records, copied_back=True)

    def _rebase_kept(self, machine: Machine, key: Key, tracked: Tracked) -> None:
        """After a crash the content is settled; whether hosts wrote it is not forgotten."""
        written = tracked.written
        self._rebase(machine, key, tracked)
        tracked.written = written

    def check_cover(self, images: list[tuple[laws.Files, laws.Files]], when: str) -> None:
        """Law L1 at a crash image."""
        try:
            wrong = laws.uncovered(images)
        except ValueError as error:
            wrong = str(error)
        if wrong is not None:
            self.broken("L1", f"{when}: {wrong}")

    # ------------------------------------------------------------ writes beneath

    def submitted(self, machine: Machine, file: str, offset_bytes: int, length_bytes: int) -> None:
        """Law L4: the log on disk names an extent before data in it changes."""
        if not file.endswith(".volume") or not hasattr(machine, "node"):
            return
        volume_id = file.removesuffix(".volume")
        for shelved in machine.node.volumes.all():
            if shelved.record.id != volume_id or not shelved.volume.trackers:
                continue
            tracked = self.volumes.get((machine.name, shelved.record.name))
            if tracked is not None and tracked.copied_back:
                owners = machine.node.pairs.of_volume(shelved.record.name)
                tracked.copied_into |= any(
                    o.record.role is Role.P_VOL and o.side.sinking for o in owners
                )
            log = self._intent(machine, shelved.record)
            if log is None or (not log.clean and self._names(log, offset_bytes, length_bytes)):
                return
            self.broken(
                "L4",
                f"{machine.name}/{shelved.record.name} is written at {offset_bytes} and its "
                "extent is not durable in the log",
            )

    def _intent(self, machine: Machine, volume: VolumeRecord) -> IntentRecord | None:
        file = f"{volume.id}.meta"
        image = machine.meta.files[file]
        known = self.logs.get((machine.name, file))
        if known is None or known[0] != image.version:
            known = (image.version, laws.read_intent(volume, image.durable))
            self.logs[machine.name, file] = known
        return known[1]

    @staticmethod
    def _names(log: IntentRecord, offset_bytes: int, length_bytes: int) -> bool:
        first = offset_bytes // log.extent_bytes
        last = (offset_bytes + length_bytes - 1) // log.extent_bytes
        return all(extent in log.extents for extent in range(first, last + 1))

    def flush_failed(self, machine: Machine, file: str) -> None:
        """From here on nothing may be acknowledged on that volume (law L10)."""
        for shelved in machine.node.volumes.all():
            tracked = self.volumes.get((machine.name, shelved.record.name))
            if file == f"{shelved.record.id}.volume" and tracked is not None:
                tracked.flush_failed_at = self.tick()
                self.event(f"a flush of {machine.name}/{shelved.record.name} failed")

    def acknowledged(self, key: Key, began: int) -> None:
        """A write or flush of a host was acknowledged."""
        failed_at = self.volumes[key].flush_failed_at
        if failed_at is not None and began > failed_at:
            self.broken("L10", f"{key[0]}/{key[1]} acknowledges after a failed flush")
