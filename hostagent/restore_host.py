"""What a restore does on host 2, in threads: mount, find, compare, copy, verify.

Owns where restores mount (below the runtime directory) and the descriptors of both roots. Must
not know pairs or other nodes. Fails with HostError or OSError.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from controller.api.looking import DigestInfo
from hostagent.attach.attacher import LunAddress
from hostagent.config import DataSetConfig
from hostagent.copying.comparing import MAX_CONFLICTS, Compared, compare_named
from hostagent.copying.content import Work
from hostagent.copying.copier import Copied, copy_named
from hostagent.copying.coverage import all_of_backup, all_there_is
from hostagent.copying.patterns import Asked, expand
from hostagent.copying.placing import Placing
from hostagent.copying.verify import Verified, verify_named
from hostagent.copying.walk import Found, find
from hostagent.filesystem.volumes import HostVolumes, MountPlan
from hostagent.looking.listing import Batch, batches, digest_range
from hostagent.programs import Blocking

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RestoreMounts:
    """The mounts of restores; implements `jobs.ports.RestoreHost`."""

    def __init__(self, volumes: HostVolumes, runtime_dir: Path, blocking: Blocking) -> None:
        self._volumes = volumes
        self._directory = runtime_dir / "mounts"
        self._blocking = blocking

    async def mount(self, key: str, address: LunAddress, data_set: DataSetConfig) -> Path:
        """Attach and mount a volume; what is there already stays."""
        plan = MountPlan(
            address,
            data_set.filesystem,
            self._directory / key,
            data_set.mount_with,
            keep_atime=True,
        )
        return await self._blocking.run(self._volumes.mount, key, plan)

    async def unmount(self, key: str) -> None:
        """Unmount, detach and remove the mount point."""
        await self._blocking.run(self._unmount, key)

    def _unmount(self, key: str) -> None:
        self._volumes.unmount(key)
        path = self._directory / key
        if path.is_dir():
            path.rmdir()

    async def find(self, view: Path, asked: list[Asked], work: Work) -> Found:
        """Look for the named files and what patterns match."""
        return await self._blocking.run(_find, view, asked, work)

    async def batches(self, view: Path, names: list[str], work: Work) -> AsyncIterator[Batch]:
        """The named files as entries, directory by directory."""
        walk = _batches(view, names)
        try:
            while (batch := await self._blocking.run(next, walk, None)) is not None:
                work.did(0)
                yield batch
        finally:
            await self._blocking.run(walk.close)

    async def digest(
        self, view: Path, path: str, offset_bytes: int, length_bytes: int
    ) -> DigestInfo:
        """SHA-256 of a part of a file."""
        return await self._blocking.run(_digest, view, path, offset_bytes, length_bytes)

    async def all_of_backup(self, view: Path, names: list[str]) -> bool:
        """Whether the named files are all that is in the view."""
        return await self._blocking.run(_all_of_backup, view, names)

    async def all_there_is(self, view: Path, volume: Path, names: list[str], work: Work) -> bool:
        """Whether they are all that is in the view and on the volume."""
        return await self._blocking.run(_all_there_is, view, volume, names, work)

    async def compare(
        self, view: Path, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Compared:
        """Look which of the files the volume has differently."""
        return await self._blocking.run(_compare, view, volume, names, placing, work)

    async def copy(
        self, view: Path, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Copied:
        """Copy the named files."""
        return await self._blocking.run(_copy, view, volume, names, placing, work)

    async def verify(
        self, view: Path, key: str, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Verified:
        """Write everything out, drop what is cached, read the files back and compare."""
        return await self._blocking.run(self._verify, view, key, volume, names, placing, work)

    def _verify(
        self, view: Path, key: str, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Verified:
        self._volumes.drop_caches(key, volume)
        with _roots(view, volume) as (source_fd, target_fd):
            return verify_named(source_fd, target_fd, names, placing, work)


def _find(view: Path, asked: list[Asked], work: Work) -> Found:
    with _roots(view) as (source_fd,):
        expanded = expand(source_fd, asked, work)
        found = find(source_fd, expanded.names, work)
        return replace(found, missing=[*expanded.missing, *found.missing])


def _batches(view: Path, names: list[str]) -> Generator[Batch, None, None]:
    with _roots(view) as (root_fd,):
        yield from batches(root_fd, names)


def _digest(view: Path, path: str, offset_bytes: int, length_bytes: int) -> DigestInfo:
    with _roots(view) as (root_fd,):
        return digest_range(root_fd, path, offset_bytes, length_bytes)


def _all_of_backup(view: Path, names: list[str]) -> bool:
    with _roots(view) as (root_fd,):
        return all_of_backup(root_fd, names)


def _all_there_is(view: Path, volume: Path, names: list[str], work: Work) -> bool:
    with _roots(view, volume) as (source_fd, target_fd):
        return all_there_is(source_fd, target_fd, names, work)


def _compare(view: Path, volume: Path, names: list[str], placing: Placing, work: Work) -> Compared:
    with _roots(view, volume) as (source_fd, target_fd):
        return compare_named(source_fd, target_fd, names, placing, MAX_CONFLICTS, work)


def _copy(view: Path, volume: Path, names: list[str], placing: Placing, work: Work) -> Copied:
    with _roots(view, volume) as (source_fd, target_fd):
        return copy_named(source_fd, target_fd, names, placing, work)


@contextmanager
def _roots(*paths: Path) -> Iterator[tuple[int, ...]]:
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(os.open(path, _ROOT))  # noqa: PERF401 - closed even if the next fails
        yield tuple(opened)
    finally:
        for fd in opened:
            os.close(fd)
