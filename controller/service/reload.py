"""Reading the configuration again while running (SIGHUP).

Owns what changed and what of it can be taken over. Must not apply anything by itself: the daemon
does, for the keys it named. A file that can't be used changes nothing, and says so by log lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel

from controller.service.config import ConfigError, load_toml

ConfigT = TypeVar("ConfigT", bound=BaseModel)

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Reloader(Generic[ConfigT]):
    """Reads `path` again. `live` are the keys that `apply` can take over, as `log.level`."""

    def __init__(
        self, path: Path, config: ConfigT, live: frozenset[str], apply: Callable[[ConfigT], None]
    ) -> None:
        self._path = path
        self._started_with = config
        self._latest = config
        self._live = live
        self._apply = apply

    def reload(self) -> None:
        """Take over what can be, and name what needs a restart. Never raises ConfigError."""
        try:
            config = load_toml(self._path, type(self._started_with))
        except ConfigError as error:
            for line in error.lines:
                _log.error("configuration not taken over", problem=line)
            return
        now = [key for key in changed_keys(self._latest, config) if key in self._live]
        later = [key for key in changed_keys(self._started_with, config) if key not in self._live]
        self._latest = config
        if now:
            self._apply(config)
        _log.info("configuration read again", taken_over=now)
        if later:
            _log.warning("a restart is needed for changed keys", keys=later)


def changed_keys(old: BaseModel, new: BaseModel, prefix: str = "") -> list[str]:
    """The keys whose values differ, with their tables: `log.level`. Lists count as one value."""
    changed = []
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            changed += changed_keys(before, after, f"{prefix}{name}.")
        elif before != after:
            changed.append(prefix + name)
    return changed
