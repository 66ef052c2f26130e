"""The catalogue: which volumes and pairs this controller has, and how each stands, on disk.

Owns the records and their one file, replaced whole and durably at each commit (docs/formats.md,
"Catalogue"), so that what belongs together changes together. Must hold no live objects. Fails
with StoreError when the disk does, CorruptError when the file isn't a catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.api.messages import Name
from controller.pair.record import PairRecord
from controller.volume.slots import CorruptError, SlotLayout, SlotRing
from controller.volume.store import Disk, StoreDone, StoreError, finished

FILE = "catalogue"
LAYOUT = SlotLayout(b"trilunCT", slot_bytes=1 << 20, slots=2)


class VolumeRecord(BaseModel):
    """One volume."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    size_bytes: int
    generation: str
    metadata_generation: int = 0
    """No valid superblock of the volume is older: an old file that was put back is seen."""
    consistent: bool = True
    healthy: bool = True
    at_rest: bool = False
    power_lost: bool = False
    settled: list[str] = []
    initiators: list[str] = []
    """Those that may log in, in lower case and sorted; none: every initiator may."""


class GroupRecord(BaseModel):
    """A consistency group."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    pairs: list[Name]


class ViewRecord(BaseModel):
    """A view that was open: dropped at the next start."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    id: str
    volume: Name


class Contents(BaseModel):
    """Everything in the catalogue."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    node: Name
    node_id: str
    boot_id: str = ""
    """Of the machine's boot in which the volumes were last opened."""
    peers: dict[str, str] = {}
    """Peer name to the id it had when it was first met."""
    volumes: list[VolumeRecord] = []
    pairs: list[PairRecord] = []
    views: list[ViewRecord] = []
    groups: list[GroupRecord] = []


class Catalogue:
    """The file and its records. Commits that are asked for while one runs share the next."""

    def __init__(self, ring: SlotRing, contents: Contents) -> None:
        self.contents = contents
        self._ring = ring
        self._committing = False
        self._waiters: list[StoreDone] = []
        self.failed: Callable[[StoreError], None] = lambda _error: None
        """Told when the file can't be written: nothing that is said from here on lasts."""

    @classmethod
    async def open(cls, disk: Disk, node: str, new_id: str) -> Catalogue:
        """Read the catalogue, or make one for a node that has none yet."""
        fresh = not disk.exists(FILE)
        store = disk.open(FILE, LAYOUT.ring_bytes, create=fresh, reserve=fresh)
        ring = SlotRing(store, LAYOUT)
        raw = await ring.load()
        if raw is None:
            catalogue = cls(ring, Contents(node=node, node_id=new_id))
            await catalogue.commit()
            return catalogue
        try:
            contents = Contents.model_validate_json(raw)
        except ValidationError as error:
            detail = str(error).splitlines()
            raise CorruptError(f"the catalogue can't be read: {' '.join(detail[:3])}") from error
        if contents.node != node:
            raise CorruptError(f"this is the catalogue of node '{contents.node}', not '{node}'")
        return cls(ring, contents)

    def commit_then(self, done: StoreDone) -> None:
        """Make the records durable as they are now (or later), then call `done`."""
        self._waiters.append(done)
        if not self._committing:
            self._start()

    async def commit(self) -> None:
        """Make the records durable; StoreError when that fails."""
        await finished(self.commit_then)

    def has_room(self) -> bool:
        """Whether the records fit the file with some to spare for what each may still grow."""
        raw = self.contents.model_dump_json().encode()
        return self._ring.fits(raw + bytes(64 << 10))

    def close(self) -> None:
        """Let go of the file."""
        self._ring.close()

    def _start(self) -> None:
        waiters, self._waiters = self._waiters, []
        self._committing = True

        def ended(error: StoreError | None) -> None:
            self._committing = False
            if error is not None:
                self.failed(error)
            for waiter in waiters:
                waiter(error)
            if self._waiters and not self._committing:
                self._start()

        self._ring.commit(self.contents.model_dump_json().encode(), ended)
