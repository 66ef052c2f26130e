"""Patterns of file names, expanded beneath one root.

Owns the grammar and the search:

  - `*` is any number of characters of one name, `?` one, `[a-z]` and `[!a-z]` one of a set;
    `**` as a whole name is any number of directories, none included.
  - `\\` takes the special meaning of the character behind it away.
  - A leading dot is a character like any other.
  - What exists as it is written is meant as it is written, whatever characters it has.
  - A `/` at the end: only directories.

Must not follow a link, nor enter another mount. Fails with HostError when a search becomes too
large, PathRefusedError for a path that leads out or through a link.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath

from controller.api.codes import Code
from controller.api.restores import MAX_PATHS
from hostagent.copying.beneath import (
    joined,
    open_directory,
    parent_of,
    requested_path,
    shown,
    without_nested,
)
from hostagent.copying.content import Work
from hostagent.errors import HostError, PathRefusedError

MAX_VISITED = 1_000_000
"""Names a search may look at."""

_SPECIAL = re.compile(r"[*?\[\\]")
_QUOTED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """One path or pattern as an operator gave it, relative to the volume's root."""

    path: str
    directory_only: bool = False

    @property
    def is_pattern(self) -> bool:
        """Whether it holds characters with a special meaning."""
        return _SPECIAL.search(self.path) is not None


@dataclass(frozen=True, slots=True)
class Expanded:
    """What a list of paths and patterns comes to."""

    names: list[str]
    """Relative paths, each once, none beneath another."""
    missing: list[str]
    """What nothing was found for, as it was asked."""


def asked_path(text: str, mountpoint: PurePosixPath) -> Asked:
    """Parse what an operator gave; raises PathRefusedError (see `requested_path`)."""
    path = requested_path(text, mountpoint)
    if any(_plain(part) in {".", ".."} for part in path.split("/")):
        raise PathRefusedError(text, "it holds '.' or '..'")
    return Asked(path, directory_only=text.endswith("/"))


def expand(root_fd: int, asked: list[Asked], work: Work) -> Expanded:
    """Look for everything that was asked for beneath the root."""
    search = _Search(root_fd, work)
    names: list[str] = []
    missing: list[str] = []
    for one in asked:
        found = search.find(one)
        if not found:
            missing.append(shown(one.path))
        names += found
        if len(names) > MAX_PATHS:
            raise HostError(
                f"more than {MAX_PATHS} files match",
                "name the directory they are in, or a narrower pattern",
                Code.BAD_REQUEST,
            )
    return Expanded(without_nested(names), missing)


class _Search:
    """Looks for one pattern after another, and counts what it has looked at."""

    def __init__(self, root_fd: int, work: Work) -> None:
        self._root_fd = root_fd
        self._work = work
        self._visited = 0

    def find(self, asked: Asked) -> list[str]:
        if self._exists(asked.path, asked.directory_only):
            return [asked.path]
        if not asked.is_pattern:
            return []
        parts = _parts(asked.path)
        found = [
            path
            for path in self._matches(parts)
            if not asked.directory_only or self._exists(path, True)
        ]
        return sorted(set(found))

    def _exists(self, path: str, directory_only: bool) -> bool:
        if not path:
            return True
        directory, name = parent_of(path)
        try:
            dir_fd = open_directory(self._root_fd, directory)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        finally:
            os.close(dir_fd)
        return stat.S_ISDIR(mode) or not directory_only

    def _matches(self, parts: tuple[str, ...]) -> list[str]:
        found: list[str] = []
        pending = [("", 0)]
        while pending:
            directory, at = pending.pop()
            part, last = parts[at], at + 1 == len(parts)
            if part == "**" and not last:
                pending.append((directory, at + 1))
            for path, is_directory in self._step(directory, part):
                if last:
                    found.append(path)
                elif is_directory:
                    pending.append((path, at if part == "**" else at + 1))
        return found

    def _step(self, directory: str, part: str) -> list[tuple[str, bool]]:
        """What one part of a pattern leads to from a directory, and whether to go on there."""
        if part != "**" and not _is_set(part):
            path = joined(directory, _plain(part))
            # Not asked whether it is a directory: a link on a way that was written is refused.
            return [(path, True)] if self._exists(path, directory_only=False) else []
        matches = re.compile("" if part == "**" else _translated(part)).match
        return [
            (joined(directory, name), is_directory)
            for name, is_directory in self._listed(directory)
            if matches(name) is not None
        ]

    def _listed(self, directory: str) -> list[tuple[str, bool]]:
        """The names in a directory and whether each is one itself; none where it can't be."""
        self._work.did(0)
        try:
            dir_fd = open_directory(self._root_fd, directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PathRefusedError:
            if self._is_mount(directory):
                return []
            raise
        try:
            with os.scandir(dir_fd) as scan:
                names = [(one.name, one.is_dir(follow_symlinks=False)) for one in scan]
        finally:
            os.close(dir_fd)
        self._visited += len(names)
        if self._visited > MAX_VISITED:
            raise HostError(
                f"the patterns would look at more than {MAX_VISITED} files",
                "name a narrower pattern, or the directory itself",
                Code.BAD_REQUEST,
            )
        return sorted(names)

    def _is_mount(self, directory: str) -> bool:
        """Whether something else is mounted exactly there, in a directory that is ours."""
        above, name = parent_of(directory)
        dir_fd = open_directory(self._root_fd, above)
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
        finally:
            os.close(dir_fd)


def _parts(path: str) -> tuple[str, ...]:
    parts: list[str] = []
    for part in path.split("/"):
        if part != "**" or parts[-1:] != ["**"]:
            parts.append(part)
    return tuple(parts)


def _is_set(part: str) -> bool:
    """Whether a name still holds a special character once the quoted ones are gone."""
    return re.search(r"[*?\[]", _QUOTED.sub("", part)) is not None


def _plain(part: str) -> str:
    return _QUOTED.sub(r"\1", part)


def _translated(part: str) -> str:
    """A regular expression without the backtracking that many stars would cost."""
    return fnmatch.translate(_QUOTED.sub(lambda match: f"[{match[1]}]", part))
