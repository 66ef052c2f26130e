"""Finding a database's files in a backup, and making the second volume hold just those.

Owns what each kind keeps where: links, link files, companions of a file. Looks and removes
beneath held descriptors only. Must not copy. Fails with HostError or OSError. Blocks.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from controller.api.recovery import DatabaseInfo
from hostagent.copying.beneath import joined, open_beneath, open_directory, parent_of
from hostagent.errors import HostError
from hostagent.programs import Blocking
from hostagent.recovery.files import FileSet

SQLITE_COMPANIONS = ("-wal", "-journal")
SQLITE_INDEX = "-shm"
"""Made anew from the WAL by whoever opens the database first."""
MAX_LINKS = 4096
_LINK_FILE_BYTES = 4096


def file_sets(
    root_fd: int, databases: Iterable[DatabaseInfo], mountpoint: PurePosixPath
) -> list[FileSet]:
    """The sets of those databases that the backup has."""
    found = []
    for database in databases:
        if _mode(root_fd, database.path) is None:
            continue
        if database.kind == "sqlite":
            found.append(_sqlite_set(root_fd, database))
            continue
        inside: list[str] = []
        elsewhere: list[str] = []
        for target in _links(root_fd, database, mountpoint):
            plain = PurePosixPath(os.path.normpath(target))
            if not plain.is_relative_to(mountpoint):
                elsewhere.append(str(plain))
            elif not plain.is_relative_to(mountpoint / database.path):
                inside.append(str(plain.relative_to(mountpoint)))
        if len(inside) > MAX_LINKS:
            raise HostError(
                f"the database '{database.name}' has more than {MAX_LINKS} links",
                "restore to another directory with --to",
            )
        needed = dict.fromkeys([database.path, *database.also, *inside])
        found.append(
            FileSet(database.name, database.kind, tuple(needed), elsewhere=tuple(elsewhere))
        )
    return found


def _sqlite_set(root_fd: int, database: DatabaseInfo) -> FileSet:
    companions = [database.path + suffix for suffix in SQLITE_COMPANIONS]
    there = [path for path in companions if _mode(root_fd, path) is not None]
    optional = [path for path in companions if path not in there]
    return FileSet(
        database.name,
        database.kind,
        (database.path, *there, *database.also),
        (*optional, database.path + SQLITE_INDEX),
    )


def _links(
    root_fd: int, database: DatabaseInfo, mountpoint: PurePosixPath
) -> Iterator[PurePosixPath]:
    """Where a server's own links lead, as host 1 sees it."""
    path = database.path
    if database.kind == "postgresql":
        # PostgreSQL, Database Physical Storage, "Database File Layout".
        tablespaces = joined(path, "pg_tblspc")
        links = [joined(path, "pg_wal")]
        links += [joined(tablespaces, name) for name in _listed(root_fd, tablespaces)]
        yield from _targets(root_fd, links, mountpoint)
    elif database.kind == "mariadb":
        # A schema may be a link, and a table's file elsewhere is named in NAME.isl.
        schemas = [joined(path, name) for name in _listed(root_fd, path)]
        yield from _targets(root_fd, schemas, mountpoint)
        for schema in schemas:
            for name in _listed(root_fd, schema):
                if name.endswith(".isl"):
                    yield PurePosixPath(_read_link_file(root_fd, joined(schema, name)))


def _targets(
    root_fd: int, paths: Iterable[str], mountpoint: PurePosixPath
) -> Iterator[PurePosixPath]:
    """Where those of the paths lead that are links."""
    for path in paths:
        mode = _mode(root_fd, path)
        if mode is None or not stat.S_ISLNK(mode):
            continue
        above, last = parent_of(path)
        dir_fd = open_directory(root_fd, above)
        try:
            # A relative target begins where the link is; an absolute one replaces all of this.
            yield mountpoint / above / os.readlink(last, dir_fd=dir_fd)
        finally:
            os.close(dir_fd)


def _read_link_file(root_fd: int, path: str) -> str:
    fd = open_beneath(root_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        return os.fsdecode(file.read(_LINK_FILE_BYTES).strip())


def _listed(root_fd: int, directory: str) -> list[str]:
    mode = _mode(root_fd, directory)
    if mode is None or not stat.S_ISDIR(mode):
        return []
    fd = open_directory(root_fd, directory)
    try:
        return sorted(os.listdir(fd))  # noqa: PTH208 - by descriptor
    finally:
        os.close(fd)


def _mode(root_fd: int, path: str) -> int | None:
    """What a path is, or None; raises PathRefusedError when a link leads to it."""
    directory, name = parent_of(path)
    try:
        dir_fd = open_directory(root_fd, directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.stat(name or ".", dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    finally:
        os.close(dir_fd)


# ---------------------------------------------------------------- nothing else stays there


def remove_foreign(backup_fd: int, volume_fd: int, sets: Iterable[FileSet]) -> int:
    """Remove from the volume what the backup's sets don't have; how many names that were.

    WAL of later, tables made since, a journal of another transaction: a server would take them
    for its own. Of names that are a directory on one side only, the volume's goes.
    """
    removed = 0
    for one in sets:
        for path in one.members:
            removed += _remove_foreign(backup_fd, volume_fd, path)
    return removed


def _remove_foreign(backup_fd: int, volume_fd: int, path: str) -> int:
    there = _mode(volume_fd, path)
    if there is None:
        return 0
    wanted = _mode(backup_fd, path)
    if wanted is None or stat.S_ISDIR(wanted) != stat.S_ISDIR(there):
        _remove(volume_fd, path, directory=stat.S_ISDIR(there))
        return 1
    removed = 0
    if stat.S_ISDIR(there):
        for name in _listed(volume_fd, path):
            removed += _remove_foreign(backup_fd, volume_fd, joined(path, name))
    return removed


def _remove(root_fd: int, path: str, *, directory: bool) -> None:
    above, name = parent_of(path)
    dir_fd = open_directory(root_fd, above)
    try:
        if directory:
            shutil.rmtree(name, dir_fd=dir_fd)
        else:
            os.unlink(name, dir_fd=dir_fd)
        os.fsync(dir_fd)
    finally:
        os.close(dir_fd)


class BackupSets:
    """The same in threads; implements `jobs.ports.DatabaseFiles`."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking

    async def sets(
        self, view: Path, databases: list[DatabaseInfo], mountpoint: Path
    ) -> list[FileSet]:
        """Which files of a mounted view belong together."""
        return await self._blocking.run(find_sets, view, databases, mountpoint)

    async def make_exact(self, view: Path, volume: Path, sets: list[FileSet]) -> int:
        """Remove from the volume what the backup's sets don't have."""
        return await self._blocking.run(make_exact, view, volume, sets)


def find_sets(view: Path, databases: list[DatabaseInfo], mountpoint: Path) -> list[FileSet]:
    """`file_sets` of a mounted view."""
    root_fd = os.open(view, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return file_sets(root_fd, databases, PurePosixPath(mountpoint))
    finally:
        os.close(root_fd)


def make_exact(view: Path, volume: Path, sets: list[FileSet]) -> int:
    """`remove_foreign` between a mounted view and a mounted volume."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    backup_fd = os.open(view, flags)
    try:
        volume_fd = os.open(volume, flags)
        try:
            return remove_foreign(backup_fd, volume_fd, sets)
        finally:
            os.close(volume_fd)
    finally:
        os.close(backup_fd)
