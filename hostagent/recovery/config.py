"""The databases of a data set, as its configuration names them.

Owns the shape of `[[data_set.database]]`. Must not look at the host. Fails with the loader's
`ConfigError`; unknown keys are errors.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from controller.api.messages import Name
from controller.service.config import Section

MAX_DATABASES = 32
_CLUSTER = re.compile(r"(?:^|/)(\d{1,2}(?:\.\d)?)/([A-Za-z0-9_.-]+)$")


def _on_volume(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError("must be relative to the volume's root, without '..'")
    return "" if path == PurePosixPath() else str(path)


VolumePath = Annotated[str, Field(max_length=4096), AfterValidator(_on_volume)]
"""A path on the volume; `.` is its root."""
Command = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=64)]
ProcessName = Annotated[str, Field(min_length=1, max_length=15)]
"""As in /proc/PID/comm, which has no more."""
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


class DatabaseSection(Section):
    """What all kinds have in common."""

    name: Name = ""
    """None given: the path's last name, or the kind."""
    path: VolumePath
    also: list[VolumePath] = Field(default_factory=list, max_length=64)
    """Further files or directories of the volume that belong to it."""
    unit: Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.@\\-]{1,255}$")] | None = None
    """The systemd unit that runs it."""
    start: Command = Field(default_factory=list)
    stop: Command = Field(default_factory=list)
    processes: list[ProcessName] = Field(default_factory=list, max_length=16)
    """Names of its server's processes. None given: those of the kind, else any that has its files
    open."""
    check: Literal["full", "quick", "none"] = "full"
    quiesce: bool = True
    """Prepare it before the file system is frozen."""
    quiesce_timeout_s: Annotated[float, Field(gt=0, le=240)] = 30.0
    stop_timeout_s: Annotated[float, Field(gt=0, le=240)] = 120.0
    recover_timeout_s: Seconds = 3600.0
    check_timeout_s: Seconds = 4 * 3600.0

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        if not isinstance(data, dict) or data.get("name") or not isinstance(data.get("path"), str):
            return data
        last = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(data["path"]).name).strip("-_")
        return {**data, "name": (last or str(data.get("kind", "database")))[:48]}

    @model_validator(mode="after")
    def _one_way(self) -> DatabaseSection:
        if self.unit is not None and (self.start or self.stop):
            raise ValueError("unit, or start and stop: not both")
        if bool(self.start) != bool(self.stop):
            raise ValueError("start and stop go together")
        return self


class PostgresqlConfig(DatabaseSection):
    """A PostgreSQL cluster; `path` is its data directory."""

    kind: Literal["postgresql"]
    connect: Annotated[str, Field(max_length=1024)] = "host=/run/postgresql user=postgres"
    """libpq's connection string, of a superuser."""
    bin_dir: Path | None = None
    """Where psql and pg_isready are. None: Debian's folder of the newest release, else PATH."""

    @model_validator(mode="before")
    @classmethod
    def _debian_unit(cls, data: object) -> object:
        """Debian's layout is VERSION/CLUSTER, and its unit is named by both."""
        if not isinstance(data, dict) or data.keys() & {"unit", "start", "stop"}:
            return data
        found = _CLUSTER.search(str(data.get("path")))
        if found is None:
            return data
        return {**data, "unit": f"postgresql@{found[1]}-{found[2]}.service"}


class MariadbConfig(DatabaseSection):
    """A MariaDB (or MySQL-compatible) server; `path` is its datadir."""

    kind: Literal["mariadb"]
    socket: Path = Path("/run/mysqld/mysqld.sock")
    user: Annotated[str, Field(min_length=1, max_length=80)] = "root"
    defaults_file: Path | None = None
    """An option file with the password, where the socket alone doesn't let the user in."""

    @model_validator(mode="before")
    @classmethod
    def _debian_unit(cls, data: object) -> object:
        if not isinstance(data, dict) or data.keys() & {"unit", "start", "stop"}:
            return data
        return {**data, "unit": "mariadb.service"}


class SqliteConfig(DatabaseSection):
    """One SQLite file. `unit`, or `start` and `stop`, are those of the program that uses it."""

    kind: Literal["sqlite"]

    @model_validator(mode="after")
    def _a_file(self) -> SqliteConfig:
        if not self.path:
            raise ValueError("path must name the database's file")
        return self


HookAct = Literal["freeze", "thaw", "stop", "start", "check"]


class HookConfig(DatabaseSection):
    """Anything else: a command of the operator's, called with the name of what is to be done."""

    kind: Literal["hook"]
    command: Annotated[Command, Field(min_length=1)]
    does: list[HookAct] = Field(default_factory=lambda: list(get_args(HookAct)), max_length=5)
    """What it is called for."""


DatabaseConfig = Annotated[
    PostgresqlConfig | MariadbConfig | SqliteConfig | HookConfig, Field(discriminator="kind")
]


def check_databases(databases: list[DatabaseConfig]) -> None:
    """Names must be different and files must not overlap; raises ValueError."""
    names = [database.name for database in databases]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"database: '{name}' is there twice; give each its own name")
    paths = [path for database in databases for path in (database.path, *database.also)]
    for number, one in enumerate(paths):
        for other in paths[number + 1 :]:
            if _overlap(one, other):
                raise ValueError(f"database: '{one or '.'}' and '{other or '.'}' overlap")


def _overlap(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)
