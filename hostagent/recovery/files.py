"""Which files of a volume belong together, and whether a restore names all of them.

Pure. Owns the rule and its sentence. Half a database's files of one instant beside half of
another is a broken database that may look whole, so a part is refused. Paths are relative to the
volume's root, '' is the root.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from controller.api.codes import Code
from controller.api.restores import Conflict
from hostagent.copying.beneath import shown
from hostagent.errors import HostError, listed


@dataclass(frozen=True, slots=True)
class FileSet:
    """One database's files in a backup."""

    database: str
    kind: str
    needed: tuple[str, ...]
    """Files and directories that only make sense together."""
    optional: tuple[str, ...] = ()
    """Names that belong to it too, whether the backup has them or not."""
    elsewhere: tuple[str, ...] = ()
    """Where links of it lead out of the volume."""

    @property
    def members(self) -> tuple[str, ...]:
        """Everything that is the database's."""
        return (*self.needed, *self.optional)


class PartOfDatabaseError(HostError):
    """A restore that would leave a database's files of two instants."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message, next_step, Code.BAD_REQUEST)


def named_sets(
    sets: Sequence[FileSet],
    names: Sequence[str],
    place: str,
    data_set: str,
    policy: Conflict,
) -> list[FileSet]:
    """The sets that a restore of `names` brings back, each whole; none to another `place`.

    Raises PartOfDatabaseError where a name touches a set and not all of it is named, where
    the set leaves the volume, where `policy` would leave files of now among it, or where the
    place is inside of it.
    """
    if place:
        for one in sets:
            if any(_within(place, path) for path in one.needed):
                raise PartOfDatabaseError(
                    f"'{shown(place)}' is inside of {_called(one)}",
                    "restore to a directory that is no database's",
                )
        return []
    found = []
    for one in sets:
        touching = [name for name in names if _touches(name, one)]
        if not touching:
            continue
        missing = [path for path in one.needed if not any(_within(path, n) for n in names)]
        if missing:
            _refuse_part(one, next(iter(touching)), data_set)
        if one.elsewhere:
            raise PartOfDatabaseError(
                f"{_called(one)} has files outside of this volume: {listed(one.elsewhere)}; "
                "those of this volume alone are a part of it",
                "have all of it on one volume, or restore to another directory with --to and "
                "put it together by hand",
            )
        if policy in {Conflict.KEEP_BOTH, Conflict.SKIP}:
            raise PartOfDatabaseError(
                f"{_called(one)} can only come back as it was; --conflict {policy.value} "
                "would leave files of now among it",
                f"run `{_command(one, data_set)}`",
            )
        found.append(one)
    return found


def _refuse_part(one: FileSet, name: str, data_set: str) -> None:
    together = " + ".join(shown(path) for path in one.needed)
    raise PartOfDatabaseError(
        f"'{shown(name)}' is a part of {_called(one)}, whose files belong together: {together}",
        f"run `{_command(one, data_set)}`, or restore the part to another directory with --to",
    )


def _command(one: FileSet, data_set: str) -> str:
    paths = " ".join(shlex.quote(shown(path)) for path in one.needed)
    return f"trilun restore --data-set {data_set} --conflict overwrite {paths}"


def _called(one: FileSet) -> str:
    return f"the database '{one.database}' ({one.kind})"


def _touches(name: str, one: FileSet) -> bool:
    return any(_within(name, path) or _within(path, name) for path in one.members)


def _within(path: str, above: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(above))
