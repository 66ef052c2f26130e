"""The pairs of a controller: made, opened after a restart, connected, dissolved.

Owns the sides and their owner tasks, and what one pair may do to another on the same volume: the
guard that keeps one consistent copy, and the marks (`controller.marks`) that split a local pair
inside a remote stream (laws L6, L7, L11). Must not move data. Refuses with RejectedError.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.catalogue import Catalogue
from controller.guarding import guard
from controller.marks import mark_local, unmark_local
from controller.owing import close_owed, release, sharing_store, stop_behind, take_up_owed
from controller.pair import messages as msg
from controller.pair.copier import Clock
from controller.pair.local import LocalChannel
from controller.pair.owner import PairOwner
from controller.pair.record import PairRecord
from controller.pair.side import PairSide
from controller.recovery import recover
from controller.shelved import taken
from controller.volume.bitmap import BLOCK_BYTES, DirtyBitmap
from controller.volume.bitmap_file import BitmapFile, file_bytes
from controller.volume.owed import OwedBlocks
from controller.volume.slots import CorruptError
from controller.volume.store import Disk, Image, SharingStore, StoreError, finished
from controller.volumes import Volumes

log = logging.getLogger(__name__)


class PairEvents(Protocol):
    """What the controller wants to know of its pairs."""

    def pair_changed(self, side: PairSide) -> None:
        """The shown state of a pair has changed."""

    def pair_gone(self, name: str) -> None:
        """A pair is dissolved on this controller."""

    def data_replaced(self, side: PairSide) -> None:
        """A reverse copy has replaced the data under the volume's hosts."""


class Pairs:
    """All sides of this controller, by name and role."""

    def __init__(
        self,
        node: str,
        volumes: Volumes,
        meta_disk: Disk,
        catalogue: Catalogue,
        clock: Clock,
        events: PairEvents,
    ) -> None:
        self.node = node
        self._volumes = volumes
        self._meta_disk = meta_disk
        self._catalogue = catalogue
        self._clock = clock
        self._events = events
        self._owners: dict[tuple[str, m.Role], PairOwner] = {}
        self._making = asyncio.Lock()
        """Held from the check whether a side can be made until it is there."""
        self._forgetting = asyncio.Lock()

    # ------------------------------------------------------------ look-ups

    def owners(self) -> list[PairOwner]:
        """Every side's owner."""
        return list(self._owners.values())

    def find(self, name: str) -> PairOwner | None:
        """The side that speaks for a pair here: the P-VOL's where both are."""
        return self._owners.get((name, m.Role.P_VOL)) or self._owners.get((name, m.Role.S_VOL))

    def get(self, name: str) -> PairOwner:
        """As `find`; RejectedError when there is none."""
        owner = self.find(name)
        if owner is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"there is no pair '{name}' here",
                "trilun pair list shows what there is",
            )
        return owner

    def sides(self, name: str) -> list[PairOwner]:
        """The sides of a pair that are here; RejectedError when none is."""
        self.get(name)
        return [owner for (each, _), owner in self._owners.items() if each == name]

    def local(self, name: str) -> PairOwner | None:
        """The P-VOL's side of a local pair, None where there is none."""
        owner = self._owners.get((name, m.Role.P_VOL))
        return owner if owner is not None and owner.record.kind is m.PairKind.LOCAL else None

    def remote_side(self, pair_id: bytes, peer: str) -> PairSide | None:
        """The side of a remote pair that speaks to `peer` under this id."""
        for owner in self._owners.values():
            record = owner.record
            if record.peer == peer and bytes.fromhex(record.id) == pair_id:
                return owner.side
        return None

    def of_volume(self, name: str) -> list[PairOwner]:
        """Every side that tracks a volume."""
        return [owner for owner in self._owners.values() if owner.record.volume == name]

    def of_peer(self, peer: str) -> list[PairOwner]:
        """Every side whose other side is at a peer."""
        return [owner for owner in self._owners.values() if owner.record.peer == peer]

    def early_image(self, volume: str) -> Image | None:
        """What a quick split makes of its S-VOL, where that is still being copied."""
        for owner in self.of_volume(volume):
            if owner.record.role is m.Role.S_VOL and owner.record.state is m.PairState.COPY:
                leader = self.local(owner.record.name)
                return None if leader is None else leader.quick.early_image(owner.side)
        return None

    # ------------------------------------------------------------ start and stop

    async def open_all(self) -> None:
        """Open every side of the catalogue and take the logs' word for what was hot."""
        for record in self._catalogue.contents.pairs:
            await self._open(record, create=False)
        for shelved in self._volumes.all():
            await recover(shelved, self.of_volume(shelved.record.name))
        for owner in self._owners.values():
            owner.start()
        for owner in list(self._owners.values()):
            record = owner.record
            if record.kind is not m.PairKind.LOCAL or record.role is not m.Role.P_VOL:
                continue
            if (record.name, m.Role.S_VOL) in self._owners:
                self.connect_local(record.name)
            else:
                # A crash in the middle of the pair's end, or of its beginning.
                owner.halt(
                    "this pair has no S-VOL's side any more",
                    f"end it: trilun pair delete {record.name} --force",
                )

    async def _open(self, record: PairRecord, *, create: bool) -> PairOwner:
        shelved = self._volumes.get(record.volume)
        bitmap = DirtyBitmap(shelved.record.size_bytes // BLOCK_BYTES)
        store = self._meta_disk.open(
            record.bitmap_name, file_bytes(bitmap.blocks), create=create, reserve=create
        )
        bitmap_file = BitmapFile(store, bitmap, bytes.fromhex(record.id))
        if create:
            await bitmap_file.create()
        else:
            await self._load_bitmap(record, bitmap, bitmap_file)
        side = PairSide(record, shelved.volume, bitmap, bitmap_file, self._clock)
        owner = PairOwner(side, self)
        if record.behind:
            # Before any host, or another pair, writes to the volume.
            await take_up_owed(self._meta_disk, owner)
        self._owners[record.name, record.role] = owner
        shelved.volume.trackers.append(side)
        shelved.volume.update_access()
        return owner

    async def _load_bitmap(
        self, record: PairRecord, bitmap: DirtyBitmap, bitmap_file: BitmapFile
    ) -> None:
        def corrupt(page: int) -> None:
            log.warning("pair %s: bitmap page %d is damaged, taken as dirty", record.name, page)

        try:
            await bitmap_file.load(corrupt)
        except CorruptError as error:
            log.warning("pair %s: %s; everything is taken as dirty", record.name, error)
            bitmap.set_all()
            await bitmap_file.create()

    async def close_all(self) -> None:
        """Stop every owner; bits are saved with their volumes."""
        for owner in list(self._owners.values()):
            await owner.stop()
        await stop_behind([owner.side for owner in self._owners.values()])

    def close_files(self) -> None:
        """Let go of the bitmap files, after the volumes have saved them."""
        for owner in self._owners.values():
            owner.side.bitmap_file.close()
            close_owed(owner.side)

    # ------------------------------------------------------------ create and dissolve

    async def add(self, record: PairRecord) -> PairOwner:
        """Make one side, durably, and start its owner. A P-VOL's side starts all dirty."""
        async with self._making:
            if (record.name, record.role) in self._owners:
                raise taken(Code.EXISTS, f"a pair '{record.name}' exists", record.name)
            shelved = self._volumes.get(record.volume)
            shelved.check_not_busy()
            rest = [o for o in self.of_volume(record.volume) if o.record.role is m.Role.S_VOL]
            if record.role is m.Role.S_VOL and rest:
                name = rest[0].record.name
                what = f"'{record.volume}' is the S-VOL of pair '{name}'"
                raise taken(Code.IN_USE, what, name)
            with shelved.claimed():
                return await self._add(record)

    async def _add(self, record: PairRecord) -> PairOwner:
        try:
            owner = await self._open(record, create=True)
        except StoreError as error:
            self._meta_disk.remove(record.bitmap_name)
            what = f"no space for the bitmap of '{record.name}': {error.detail}"
            step = "make room on the disk that holds state_dir"
            raise RejectedError(Code.NO_SPACE, what, step) from error
        if record.role is m.Role.P_VOL:
            owner.side.bitmap.set_all()
        else:
            # From here on no copy back into the volume begins; one that runs would end as a
            # write since the two sides parted.
            back = [
                each
                for each in self.of_volume(record.volume)
                if each.record.state is m.PairState.RCPY or each.record.goal == "reverse"
            ]
            if back:
                self._close(owner)
                raise RejectedError(
                    Code.IN_USE,
                    f"'{record.volume}' is being copied back to by pair '{back[0].record.name}'",
                    f"wait for it: trilun pair wait {back[0].record.name} PAIR",
                )
        was_consistent = (state := owner.side.volume.state).consistent
        try:
            if record.role is m.Role.S_VOL:
                await self.guard(owner.side)
                state.consistent = False
                owner.side.volume.update_access()
            # Bits first: any commit of the catalogue meanwhile would make a pair of it whose
            # bitmap file says on disk that nothing differs (law L1).
            await finished(owner.side.bitmap_file.save)
        except (RejectedError, StoreError):
            state.consistent = was_consistent
            self._close(owner)
            raise
        self._catalogue.contents.pairs.append(record)
        try:
            await self._catalogue.commit()
        except (Exception, asyncio.CancelledError):
            # Whoever asks this side for something gets an answer.
            owner.start()
            raise
        owner.start()
        return owner

    def connect_local(self, name: str) -> None:
        """Join the two sides of a local pair."""
        p_side = self._owners[name, m.Role.P_VOL].side
        s_side = self._owners[name, m.Role.S_VOL].side
        s_side.on_open(LocalChannel(p_side))
        p_side.on_open(LocalChannel(s_side))

    # ------------------------------------------------------------ PairServices

    async def commit(self) -> None:
        """Make the catalogue durable."""
        await self._catalogue.commit()

    def changed(self, side: PairSide) -> None:
        """Pass it on."""
        self._events.pair_changed(side)

    def use_of(self, side: PairSide) -> str:
        """Why a volume can't be the target of a copy now."""
        volume = side.volume
        if not volume.state.healthy:
            return f"volume '{volume.name}' has failed"
        if volume.views:
            return f"a view of '{volume.name}' is open"
        for owner in self.of_volume(volume.name):
            other = owner.side
            if other is side:
                continue
            follows = owner.record.role is m.Role.S_VOL and owner.record.goal != "split"
            # A copy back that is about to begin waits for the volume's writes to end, before it
            # takes any data; a second copy into the volume must not begin meanwhile (law L6).
            if other.sinking or follows or owner.record.state is m.PairState.RCPY:
                return (
                    f"'{volume.name}' follows pair '{owner.record.name}' "
                    f"({owner.record.state}): split that first"
                )
        return ""

    def initiators_of(self, side: PairSide) -> int:
        """Sessions on the side's volume."""
        return side.volume.sessions()

    async def guard(self, side: PairSide) -> None:
        """Split what mirrors this volume while that is still consistent (law L7)."""
        await guard(lambda: self.of_volume(side.volume.name), side)

    def in_sync(self, side: PairSide) -> None:
        """What the guard split may follow again, and what had to wait may end (law L7)."""
        follows = side.record.role is m.Role.S_VOL
        for owner in self.of_volume(side.volume.name):
            # A copy that ends beside, or just before, says nothing of what a mark has split.
            if owner.record.guarded and (follows or not owner.record.instant):
                owner.resume_guarded()
            elif owner.record.role is m.Role.P_VOL and owner.record.state is m.PairState.COPY:
                owner.copied()

    def view_closed(self, volume: str) -> None:
        """What the guard split may have been refused while the view was open."""
        for owner in self.of_volume(volume):
            leader = self._owners.get((owner.record.name, m.Role.P_VOL))
            if leader is not None and leader.record.guarded and leader.side.volume.state.consistent:
                leader.resume_guarded()

    def data_replaced(self, side: PairSide) -> None:
        """Pass it on."""
        self._events.data_replaced(side)

    def mark_local(
        self, side: PairSide, mark: msg.Mark, reply: Callable[[msg.Marked], None]
    ) -> None:
        """Split the named local pair behind `side`, at this point of its stream (law L11)."""
        mark_local(self.local(mark.local_pair), side, mark, reply)

    def unmark_local(self, side: PairSide, unmark: msg.Unmark) -> None:
        """Pass it on."""
        unmark_local(self.local(unmark.local_pair), side, unmark)

    async def owe(self, side: PairSide) -> OwedBlocks:
        """All that is marked now."""
        return await OwedBlocks.create(self._meta_disk, side.record.id, side.bitmap)

    def shares(self, side: PairSide) -> SharingStore | None:
        """The S-VOL's store, where it is of a kind that can."""
        return sharing_store(self._owners[side.record.name, m.Role.S_VOL].side)

    def release(self, side: PairSide) -> None:
        """No write waits for a copy behind a split any more."""
        release(self._meta_disk, side)

    def role_changed(self, side: PairSide, was: m.Role) -> None:
        """Find the side under its new role."""
        name = side.record.name
        self._owners[name, side.record.role] = self._owners.pop((name, was))

    async def forget(self, side: PairSide) -> None:
        """Remove one side: record first, then the bitmap."""
        record = side.record
        # Where its making is taken back, a command may be dissolving it, too.
        async with self._forgetting:
            pairs = self._catalogue.contents.pairs
            if not any(each is record for each in pairs):
                return
            pairs.remove(record)
            try:
                await self._catalogue.commit()
            except StoreError:
                # It is still there on disk, and would be back after a restart.
                pairs.append(record)
                raise
            self._close(self._owners[record.name, record.role])
        if self.find(record.name) is None:
            self._events.pair_gone(record.name)

    def _close(self, owner: PairOwner) -> None:
        """Take a side out of its volume, and its bitmap off the disk."""
        side, record = owner.side, owner.record
        release(self._meta_disk, side)
        side.volume.trackers.remove(side)
        del self._owners[record.name, record.role]
        if record.kind is m.PairKind.LOCAL:
            self._part_local(record.name)
        side.bitmap_file.close()
        self._meta_disk.remove(record.bitmap_name)
        side.volume.update_access()
        owner.retire()

    def _part_local(self, name: str) -> None:
        """Nobody answers the other half of a local pair any more; what is being said arrives."""
        for role in m.Role:
            other = self._owners.get((name, role))
            if other is not None and isinstance(other.side.channel, LocalChannel):
                other.side.channel.alive = False
