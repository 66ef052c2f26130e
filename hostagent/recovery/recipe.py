"""What a recipe is: one kind of database, as far as backups and restores have to know it.

Owns the base of all recipes, whose defaults do nothing. A recipe must not decide when something
is done, nor restore files. Fails with HostError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from hostagent.programs import Blocking
from hostagent.recovery.commands import Held

Release = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is on host 1."""

    data_set: str
    root: Path
    """Where the volume is mounted."""
    path: str
    """On the volume; empty: its root."""

    @property
    def directory(self) -> Path:
        """The database's directory or file."""
        return self.root / self.path


@dataclass(frozen=True, slots=True)
class Quiesced:
    """A database that is ready for the freeze."""

    done: str
    """What was done, in words."""
    held: Held | None = None
    """What is held until the thaw."""
    release: Release | None = None
    """Undoes it, after the thaw or after any failure."""

    @property
    def holds(self) -> bool:
        """Whether what is held still is."""
        return self.held is None or self.held.holds


@dataclass(frozen=True, slots=True)
class Checked:
    """What a database's own check found."""

    done: str
    """What was checked, in words."""
    problems: list[str]


class Recipe:
    """One database. Every call is made with the file system mounted."""

    servers: frozenset[str] = frozenset()
    """Names of the server's processes; empty: whatever has its files open."""
    holds_up: bool = False
    """Whether its users wait from `quiesce` to the thaw."""
    starts: bool = False
    """Whether it has a way of its own to be started and stopped, besides the configuration's."""

    def __init__(self, place: Place, blocking: Blocking) -> None:
        self.place = place
        self.blocking = blocking

    async def quiesce(self, timeout_s: float, ttl_s: float) -> Quiesced:
        """Prepare for a freeze of at most `ttl_s`; what is held ends by itself after that."""
        del timeout_s, ttl_s
        return Quiesced("nothing to prepare")

    async def resume_left_over(self) -> None:
        """Undo a `quiesce` of an agent that died, where that doesn't end with the agent."""

    async def start(self, timeout_s: float) -> None:
        """Start it; only called when `starts`."""
        del timeout_s
        raise AssertionError("this kind has no way of its own")

    async def stop(self, timeout_s: float) -> None:
        """Stop it; only called when `starts`."""
        del timeout_s
        raise AssertionError("this kind has no way of its own")

    async def prepare_start(self) -> None:
        """Take away what would keep it from starting on files of an earlier instant."""

    async def ready(self) -> bool:
        """Whether it serves; raises HostError when waiting can't help."""
        return True

    async def check(self, *, quick: bool, timeout_s: float) -> Checked:
        """Run its own check."""
        del quick, timeout_s
        return Checked("", [])
