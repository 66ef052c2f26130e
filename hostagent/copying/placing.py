"""Where the files of a restore go, and what is done with those that have changed.

Owns the mapping from a path in the backup to one on the volume, and the name of a kept file.
Pure. Must not look at any file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from controller.api.restores import Conflict
from hostagent.copying.beneath import joined, parent_of

MAX_NAME_BYTES = 255
"""NAME_MAX of every file system we mount (limits.h)."""


@dataclass(frozen=True, slots=True)
class Placing:
    """One restore's rules."""

    job: str
    to: str = ""
    """Directory on the volume that gets the files; empty: their own places."""
    policy: Conflict = Conflict.OVERWRITE
    changed: frozenset[str] = frozenset()
    """Paths of the backup that the volume has differently."""
    compared: bool = False
    """All of them are in `changed`: the content of the others was read and is the same."""

    def at(self, path: str) -> str:
        """Where a path of the backup is on the volume."""
        return joined(self.to, path) if path else self.to

    def skips(self, path: str) -> bool:
        """Whether a path, or a directory above it, stays as the volume has it."""
        if self.policy is not Conflict.SKIP:
            return False
        while path and path not in self.changed:
            path = parent_of(path)[0]
        return path in self.changed

    def keeps(self, path: str) -> bool:
        """Whether what is there now stays beside the restored file."""
        return self.policy is Conflict.KEEP_BOTH and path in self.changed

    def kept_name(self, name: str) -> str:
        """What a changed file is called afterwards; cut where it would be too long."""
        suffix = os.fsencode(f".before-{self.job}")
        return os.fsdecode(os.fsencode(name)[: MAX_NAME_BYTES - len(suffix)] + suffix)

    def kept_path(self, path: str) -> str:
        """Where a changed file is afterwards, from the volume's root."""
        directory, name = parent_of(self.at(path))
        return joined(directory, self.kept_name(name))
