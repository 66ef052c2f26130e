"""The volumes of a controller: made, opened after a restart, viewed, deleted.

Owns the files of each volume and the `Volume` objects over them. Must not know what a pair does;
it is told which names are taken. Refuses with RejectedError; a volume whose log can't be read is
opened with everything assumed dirty, never with anything assumed clean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from controller import admitting
from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.catalogue import Catalogue, ViewRecord, VolumeRecord
from controller.exports import Exporter, target_name
from controller.growing import grow, grows
from controller.shelved import Shelved
from controller.volume.losses import opened
from controller.volume.metadata import Metadata, create_metadata, metadata_file, open_metadata
from controller.volume.overlay import OverlayStore
from controller.volume.services import VolumeServices
from controller.volume.store import BlockStore, Disk, Image, StoreError, StoreFault, finished
from controller.volume.superblock import Identity, IntentSettings
from controller.volume.volume import Volume
from targets.lun import LunIdentity

log = logging.getLogger(__name__)

DRAIN_WITHIN_S = 10.0
"""How long a clean stop waits for writes that are under way between volumes."""


def identity_of(volume_id: str) -> LunIdentity:
    """NAA 6 (locally assigned company id 0x1u) and serial from the volume's id."""
    raw = bytes.fromhex(volume_id)
    return LunIdentity(naa=bytes([0x60 | raw[0] >> 4]) + raw[1:], serial=volume_id[:20])


class Volumes:
    """The shelf."""

    def __init__(
        self,
        node: str,
        disk: Disk,
        meta_disk: Disk,
        catalogue: Catalogue,
        exporter: Exporter,
        services: VolumeServices,
        settings: IntentSettings,
        new_id: Callable[[], str],
        boot_id: str,
    ) -> None:
        self._node = node
        self._disk = disk
        self._meta_disk = meta_disk
        self._catalogue = catalogue
        self._exporter = exporter
        self._services = services
        self._settings = settings
        self._new_id = new_id
        self._boot_id = boot_id
        self._shelf: dict[str, Shelved] = {}
        self._making = asyncio.Lock()
        """Held while a name is being taken or given back."""

    def all(self) -> list[Shelved]:
        """Every volume and view."""
        return list(self._shelf.values())

    def get(self, name: str) -> Shelved:
        """One volume or view; RejectedError when there is none of that name."""
        found = self._shelf.get(name)
        if found is None:
            raise RejectedError(
                Code.NOT_FOUND,
                f"there is no volume '{name}' on '{self._node}'",
                "trilun volume list shows what there is",
            )
        return found

    # ------------------------------------------------------------ start and stop

    async def open_all(self) -> None:
        """Open what the catalogue lists; views of the last run are dropped."""
        for view in self._catalogue.contents.views:
            self._disk.remove(_view_file(view.id))
        self._catalogue.contents.views = []
        for record in self._catalogue.contents.volumes:
            try:
                await self._open(record)
            except StoreError as error:
                log.error("volume %s can't be opened: %s", record.name, error)  # noqa: TRY400
                raise
        self._catalogue.contents.boot_id = self._boot_id

    async def _open(self, record: VolumeRecord) -> None:
        name, size_bytes = _data_file(record.id), record.size_bytes
        # A longer one was growing when power was lost: nobody saw the rest of it.
        store = self._disk.open(name, size_bytes, create=False, longer=True)
        identity = Identity(bytes.fromhex(record.id), record.size_bytes, record.metadata_generation)
        metadata = await open_metadata(self._meta_disk, record.id, identity, self._settings)
        record.metadata_generation = metadata.generation
        opened(record, same_boot=self._catalogue.contents.boot_id in ("", self._boot_id))
        self._shelve(record, store, metadata)

    def _shelve(
        self,
        record: VolumeRecord,
        store: BlockStore,
        metadata: Metadata | None,
        view_of: str | None = None,
    ) -> Shelved:
        volume = Volume(
            record,
            identity_of(record.id),
            store,
            self._services,
            intent_ring=None if metadata is None else metadata.ring,
            extent_bytes=self._settings.extent_bytes,
            hot_extents=self._settings.hot_extents,
        )
        iqn = target_name(self._node, record.name, record.id)
        shelved = Shelved(record, volume, iqn, metadata, view_of)
        volume.sessions = lambda: len(self._exporter.sessions(iqn))
        self._shelf[record.name] = shelved
        return shelved

    def offer_all(self) -> None:
        """Export every volume; called when every pair is known, so that access is right."""
        for shelved in self._shelf.values():
            self._offer(shelved)

    def _offer(self, shelved: Shelved) -> None:
        self._exporter.offer(shelved.iqn, shelved.volume, shelved.record.initiators)

    async def withdraw_all(self) -> None:
        """Keep every host out; returns when no command is under way."""
        await self._exporter.withdraw_all()

    async def close_all(self) -> None:
        """A clean stop, with hosts and peers gone: everything is flushed, nothing is hot."""
        try:
            async with asyncio.timeout(DRAIN_WITHIN_S):
                while not all(shelved.volume.idle for shelved in self._shelf.values()):
                    await asyncio.gather(*(self._drained(each) for each in self._shelf.values()))
        except TimeoutError:
            log.warning("writes are still under way: not a clean stop")
        # A command that was given before the stop may end meanwhile.
        for shelved in list(self._shelf.values()):
            await self._close(shelved)

    async def _drained(self, shelved: Shelved) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def drained() -> None:
            if not future.done():
                future.set_result(None)

        shelved.volume.drained(drained)
        await future

    async def _close(self, shelved: Shelved) -> None:
        volume = shelved.volume
        intent = volume.intent
        clean = volume.idle and shelved.record.healthy
        if intent is not None and clean:
            intent.close()
            try:
                await finished(volume.settle)
                await finished(intent.commit_clean)
                shelved.record.at_rest = True
            except StoreError as error:
                log.warning("volume %s is not closed cleanly: %s", volume.name, error)
        if shelved.metadata is not None:
            shelved.metadata.store.close()
        volume.store.close()

    # ------------------------------------------------------------ commands

    async def create(self, asked: m.VolumeCreate) -> tuple[Shelved, bool]:
        """Make a volume; the flag is False when it is there already, with the same size."""
        async with self._making:
            return await self._create(asked)

    async def _create(self, asked: m.VolumeCreate) -> tuple[Shelved, bool]:
        existing = self._shelf.get(asked.name)
        if existing is not None:
            if existing.view_of is None and existing.record.size_bytes == asked.size_bytes:
                admitting.check_same(existing.record, asked)
                return existing, False
            raise RejectedError(
                Code.EXISTS,
                f"'{asked.name}' exists on '{self._node}' with {existing.record.size_bytes} bytes",
                "choose another name, or delete it first",
            )
        if not self._catalogue.has_room():
            raise RejectedError(Code.NO_SPACE, "the catalogue is full", "delete volumes or pairs")
        record = VolumeRecord(
            name=asked.name,
            id=self._new_id(),
            size_bytes=asked.size_bytes,
            generation=self._new_id(),
            initiators=admitting.initiator_names(asked.initiators),
        )
        try:
            store = self._disk.open(_data_file(record.id), asked.size_bytes, create=True)
            metadata = await create_metadata(
                self._meta_disk, record.id, record.size_bytes, self._settings
            )
        except StoreError as error:
            self._disk.remove(_data_file(record.id))
            self._meta_disk.remove(metadata_file(record.id))
            raise _refused(f"volume '{asked.name}'", error) from error
        record.metadata_generation = metadata.generation
        self._catalogue.contents.volumes.append(record)
        await self._catalogue.commit()
        shelved = self._shelve(record, store, metadata)
        shelved.busy = "being made"
        self._offer(shelved)
        try:
            await self._exporter.ready(shelved.iqn)
        except RejectedError:
            await self._exporter.withdraw(shelved.iqn, force=True)
            await self._discard(shelved)
            raise
        finally:
            shelved.busy = ""
        return shelved, True

    async def grow(self, asked: m.VolumeGrow) -> tuple[Shelved, bool]:
        """Make a volume larger under its hosts; the flag is False when it has that size."""
        async with self._making:
            shelved = self.get(asked.name)
            if shelved.view_of is not None:
                raise RejectedError(Code.BAD_REQUEST, f"'{asked.name}' is a view", "grow a volume")
            if not grows(shelved.record, asked.size_bytes):
                return shelved, False
            shelved.check_no_copies()
            shelved.busy = "growing"
            try:
                await grow(shelved, self._catalogue, asked.size_bytes)
            finally:
                shelved.busy = ""
        self._exporter.grown(shelved.iqn)
        return shelved, True

    async def allow(self, asked: m.VolumeAllow) -> tuple[Shelved, bool]:
        """Say which initiators may log in; the flag is False when it is so already."""
        async with self._making:
            shelved = self.get(asked.name)
            return shelved, await admitting.allow(shelved, self._catalogue, self._exporter, asked)

    async def delete(self, name: str) -> Shelved:
        """Delete a volume and its data; refused while anything uses it."""
        shelved = self.get(name)
        if shelved.view_of is not None:
            raise RejectedError(
                Code.IN_USE, f"'{name}' is a view", "it is closed by the job that opened it"
            )
        shelved.check_no_copies()
        self.check_no_sessions(shelved)
        shelved.busy = "being deleted"
        try:
            await self._exporter.withdraw(shelved.iqn, force=False)
        finally:
            shelved.busy = ""
        await self._discard(shelved)
        return shelved

    async def _discard(self, shelved: Shelved) -> None:
        """Forget a volume that nobody can reach any more, and remove its files."""
        del self._shelf[shelved.record.name]
        self._catalogue.contents.volumes.remove(shelved.record)
        await self._catalogue.commit()
        if shelved.metadata is not None:
            shelved.metadata.store.close()
        shelved.volume.store.close()
        self._disk.remove(_data_file(shelved.record.id))
        self._meta_disk.remove(metadata_file(shelved.record.id))

    def check_no_sessions(self, shelved: Shelved) -> None:
        """RejectedError while an initiator is logged in."""
        sessions = self._exporter.sessions(shelved.iqn)
        if sessions:
            raise RejectedError(
                Code.IN_USE,
                f"{sessions[0].initiator} is logged in to '{shelved.record.name}'",
                "log it out on that host first",
            )

    # ------------------------------------------------------------ views

    async def open_view(
        self, asked: m.ViewOpen, image_of: Callable[[str], Image | None]
    ) -> tuple[Shelved, bool]:
        """Open a throw-away copy-on-write view of a volume (law L13).

        `image_of` raises RejectedError when the volume's content may change just now, and knows
        what the view reads where that is not the volume's store alone.
        """
        async with self._making:
            return await self._open_view(asked, image_of)

    async def _open_view(
        self, asked: m.ViewOpen, image_of: Callable[[str], Image | None]
    ) -> tuple[Shelved, bool]:
        base = self.get(asked.volume)
        existing = self._shelf.get(asked.view)
        if existing is not None:
            if existing.view_of == asked.volume:
                return existing, False
            raise RejectedError(Code.EXISTS, f"'{asked.view}' exists", "choose another name")
        if base.view_of is not None:
            step = f"look into '{base.view_of}' itself"
            raise RejectedError(Code.BAD_REQUEST, f"'{asked.volume}' is a view itself", step)
        base.check_not_busy()
        image = image_of(asked.volume)
        if not base.record.healthy or not (base.record.consistent or image is not None):
            raise RejectedError(
                Code.NOT_CONSISTENT,
                f"'{asked.volume}' is not one point in time",
                "wait until its pair is in sync and split it",
            )
        view = ViewRecord(name=asked.view, id=self._new_id(), volume=asked.volume)
        # From here on no copy may begin into the base.
        base.volume.views += 1
        base.volume.update_access()
        self._catalogue.contents.views.append(view)
        try:
            # In the catalogue first: a file that a crash leaves behind is found and dropped.
            await self._catalogue.commit()
            delta = self._disk.open(_view_file(view.id), base.record.size_bytes, create=True)
        except StoreError as error:
            base.volume.views -= 1
            base.volume.update_access()
            self._catalogue.contents.views.remove(view)
            raise _refused(f"view '{asked.view}'", error) from error
        record = VolumeRecord(
            name=asked.view,
            id=view.id,
            size_bytes=base.record.size_bytes,
            generation=base.record.generation,
            initiators=base.record.initiators,
        )
        store = OverlayStore(image or base.volume.store, delta)
        shelved = self._shelve(record, store, None, view_of=asked.volume)
        self._offer(shelved)
        try:
            await self._exporter.ready(shelved.iqn)
        except RejectedError:
            await self.close_view(asked.view)
            raise
        return shelved, True

    async def close_view(self, name: str) -> Shelved | None:
        """Throw a view away; None when there is none of that name (a repeated command)."""
        shelved = self._shelf.get(name)
        if shelved is None:
            return None
        if shelved.view_of is None:
            step = f"to delete it: trilun volume delete {name}"
            raise RejectedError(Code.BAD_REQUEST, f"'{name}' is a volume, not a view", step)
        self.check_no_sessions(shelved)
        await self._exporter.withdraw(shelved.iqn, force=False)
        del self._shelf[name]
        base = self._shelf[shelved.view_of].volume
        base.views -= 1
        base.update_access()
        shelved.volume.store.close()
        self._disk.remove(_view_file(shelved.record.id))
        contents = self._catalogue.contents
        contents.views = [view for view in contents.views if view.name != name]
        await self._catalogue.commit()
        return shelved


def _data_file(volume_id: str) -> str:
    return f"{volume_id}.volume"


def _view_file(view_id: str) -> str:
    return f"{view_id}.view"


def _refused(what: str, error: StoreError) -> RejectedError:
    if error.fault is StoreFault.NO_SPACE:
        return RejectedError(Code.NO_SPACE, f"no space for {what}: {error.detail}", "free some")
    step = "mend the disk; trilund's log says more"
    return RejectedError(Code.IO_ERROR, f"{what} can't be made: {error.detail}", step)
