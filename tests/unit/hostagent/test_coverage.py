"""When the named files are all there is on a volume, and when they are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.copying.content import Work
from hostagent.copying.coverage import all_of_backup, all_there_is

QUIET = Work(lambda _: None, lambda: False)
Change = Callable[[Path], object]


def tree(root: Path) -> Path:
    (root / "dir/below").mkdir(parents=True)
    (root / "dir/below/x").write_text("x")
    (root / "dir/y").write_text("y")
    (root / "z").symlink_to("dir/y")
    (root / "lost+found").mkdir()
    return root


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    return tree(tmp_path / "backup"), tree(tmp_path / "volume")


def covered(trees: tuple[Path, Path], *names: str) -> bool:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in trees]
    try:
        return all_there_is(fds[0], fds[1], list(names), QUIET)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("names", [["dir", "z"], ["dir", "z", "lost+found"], [""]])
def test_all_there_is(trees: tuple[Path, Path], names: list[str]) -> None:
    assert covered(trees, *names)


@pytest.mark.parametrize("names", [["dir"], ["z"], ["dir/below", "dir/y", "z"], []])
def test_something_was_not_named(trees: tuple[Path, Path], names: list[str]) -> None:
    assert not covered(trees, *names)
    fd = os.open(trees[0], os.O_RDONLY)
    assert not all_of_backup(fd, names)
    os.close(fd)


def _file_for_directory(root: Path) -> None:
    (root / "dir/below/x").unlink()
    (root / "dir/below").rmdir()
    (root / "dir/below").write_text("a file now")


MORE: list[Change] = [
    lambda root: (root / "new").write_text("n"),
    lambda root: (root / "dir/below/new").write_text("n"),
    lambda root: (root / "dir/new").mkdir(),
    lambda root: (root / "lost+found/#12").write_text("found"),
    _file_for_directory,
]


@pytest.mark.parametrize("change", MORE)
def test_the_volume_has_more(trees: tuple[Path, Path], change: Change) -> None:
    change(trees[1])
    assert not covered(trees, "dir", "z")


LESS: list[Change] = [
    lambda root: (root / "z").unlink(),
    lambda root: (root / "dir/below/x").unlink(),
    lambda root: (root / "lost+found").rmdir(),
    lambda root: (root / "dir/y").write_text("other content"),
]


@pytest.mark.parametrize("change", LESS)
def test_what_was_deleted_or_changed_comes_back_either_way(
    trees: tuple[Path, Path], change: Change
) -> None:
    change(trees[1])
    assert covered(trees, "dir", "z")


def test_a_link_where_the_volume_has_a_directory(trees: tuple[Path, Path]) -> None:
    (trees[0] / "z").unlink()
    (trees[0] / "z").mkdir()
    (trees[0] / "z/inside").write_text("i")
    assert not covered(trees, "dir", "z")
