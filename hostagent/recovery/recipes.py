"""Which recipe a kind of database has.

Owns the table. Must not run anything.
"""

from __future__ import annotations

from hostagent.programs import Blocking
from hostagent.recovery.config import (
    DatabaseConfig,
    HookConfig,
    MariadbConfig,
    PostgresqlConfig,
)
from hostagent.recovery.hook import Hook
from hostagent.recovery.mariadb import Mariadb
from hostagent.recovery.postgresql import Postgresql
from hostagent.recovery.recipe import Place, Recipe
from hostagent.recovery.sqlite import Sqlite


def recipe_for(config: DatabaseConfig, place: Place, blocking: Blocking) -> Recipe:
    """The recipe of one configured database."""
    if isinstance(config, PostgresqlConfig):
        return Postgresql(config, place, blocking)
    if isinstance(config, MariadbConfig):
        return Mariadb(config, place, blocking)
    if isinstance(config, HookConfig):
        return Hook(config, place, blocking)
    return Sqlite(place, blocking)
