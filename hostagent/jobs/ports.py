"""What jobs need from outside: controllers, agents, time. Protocols only.

Owns the words between the jobs and the daemon that wires them. Must not do anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controller.api.looking import DigestInfo
from controller.api.messages import DatabaseInfo, Info, JobInfo, Params
from hostagent.attach.attacher import LunAddress
from hostagent.config import DataSetConfig
from hostagent.copying.comparing import Compared
from hostagent.copying.content import Work
from hostagent.copying.copier import Copied
from hostagent.copying.patterns import Asked
from hostagent.copying.placing import Placing
from hostagent.copying.verify import Verified
from hostagent.copying.walk import Found
from hostagent.looking.listing import Batch
from hostagent.recovery.files import FileSet


class Nodes(Protocol):
    """Commands to other nodes. Raises RejectedError; `unreachable` or `timeout` without answer."""

    async def call(self, node: str, verb: str, params: Params, request_id: str | None) -> Info:
        """Ask a node; the same `request_id` is carried out once, whatever is sent again."""


class RestoreHost(Protocol):
    """What a restore does on host 2. Each call can be repeated in any state."""

    async def mount(self, key: str, address: LunAddress, data_set: DataSetConfig) -> Path:
        """Attach and mount a volume under the agent's own folder."""

    async def unmount(self, key: str) -> None:
        """Unmount and detach it, with everything flushed."""

    async def find(self, view: Path, asked: list[Asked], work: Work) -> Found:
        """Look for the named files and what patterns match."""

    def batches(self, view: Path, names: list[str], work: Work) -> AsyncIterator[Batch]:
        """The named files as entries, directory by directory."""

    async def digest(
        self, view: Path, path: str, offset_bytes: int, length_bytes: int
    ) -> DigestInfo:
        """SHA-256 of a part of a file."""

    async def all_of_backup(self, view: Path, names: list[str]) -> bool:
        """Whether the named files are all that is in the view."""

    async def all_there_is(self, view: Path, volume: Path, names: list[str], work: Work) -> bool:
        """Whether they are all that is in the view and on the volume."""

    async def compare(
        self, view: Path, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Compared:
        """Look which of the files the volume has differently."""

    async def copy(
        self, view: Path, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Copied:
        """Copy the named files."""

    async def verify(
        self, view: Path, key: str, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Verified:
        """Drop what is cached of the volume `key`, read the files back and compare."""


class DatabaseFiles(Protocol):
    """The files of databases, in a backup and on the second volume."""

    async def sets(
        self, view: Path, databases: list[DatabaseInfo], mountpoint: Path
    ) -> list[FileSet]:
        """Which files of the backup belong together; `mountpoint` is host 1's."""

    async def make_exact(self, view: Path, volume: Path, sets: list[FileSet]) -> int:
        """Remove from the volume what the backup's sets don't have; how many names."""


class FirstVolumes(Protocol):
    """What a backup does on host 1."""

    async def freeze(self, wanted: dict[str, float]) -> dict[str, list[DatabaseInfo]]:
        """Prepare the databases of data sets, then freeze their file systems, all or none.

        `wanted` has the seconds after which each thaws by itself.
        """

    async def still_frozen(self, data_set: str) -> bool:
        """Whether the freeze has held until now."""

    async def thaw(self, data_set: str) -> float:
        """Thaw; how long it was frozen, in seconds (0 when it wasn't)."""


class Clock(Protocol):
    """Time, injected."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""

    def time(self) -> float:
        """Unix seconds, for people."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything a job may reach."""

    nodes: Nodes
    host: RestoreHost
    databases: DatabaseFiles
    first: FirstVolumes
    clock: Clock
    publish: Callable[[JobInfo], None]
    pause: Callable[[float], Awaitable[None]]
    """Wait that many seconds."""
    forget: Callable[[str], None]
    """Take an old job's published state away."""
