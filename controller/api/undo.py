"""The contract of undoing the restore of a whole volume.

Owns the shape, and the label by which a backup slot tells that it holds what a restore has
overwritten: there is no other catalogue of that. Such a slot is a backup like any other, but for
its end: only a drop frees it.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

from pydantic import Field

from controller.api.base import Name, Params

_LABEL = re.compile(r"before-((?:whole|restore|restore-group)-[0-9a-f]{10})")

Keep = Annotated[int, Field(ge=0, le=32)]
RestoreJob = Annotated[str, Field(pattern=r"^(|(whole|restore|restore-group)-[0-9a-f]{10})$")]
"""Id of a restore's job; empty: the latest that can be undone."""


class Undo(enum.StrEnum):
    """Whether a restore of a whole volume keeps what it overwrites."""

    AUTO = "auto"
    """Where a slot is free; else it says that there will be no undo. For the undo of an undo."""
    REQUIRED = "required"
    """Refuse to restore without: nothing is lost that nobody gave up."""
    NEVER = "never"
    """What is overwritten is given up."""


class UndoStart(Params):
    """Bring a whole volume back to what it was before a restore."""

    data_set: Name
    job: RestoreJob = ""
    dry_run: bool = False
    force: bool = False
    """Unmount host 1's file system even when processes hold it."""
    undo: Undo = Undo.AUTO
    """Of the undo itself: it can be taken back where another slot is free."""
    keep: Keep | None = None
    """As with a restore."""


class UndoDrop(Params):
    """Give up what a restore has overwritten: its slot is free for backups again."""

    data_set: Name
    job: RestoreJob = ""


def undo_label(job: str) -> str:
    """The label of a slot that holds what was there before that restore."""
    return f"before-{job}"


def undone_job(label: str) -> str:
    """The restore that a slot of that label undoes; empty when it is no such label."""
    found = _LABEL.fullmatch(label)
    return found[1] if found else ""
