"""openat2 refuses every way out, and requested paths mean what operators mean."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.copying.beneath import open_beneath, requested_path, shown, without_nested
from hostagent.errors import PathRefusedError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("s")
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_text("f")
    (root / "up").symlink_to("..")
    (root / "abs").symlink_to("/etc")
    (root / "inside").symlink_to("d")
    (root / "d/file-link").symlink_to("f")
    return root


def attempt(root: Path, path: str) -> int:
    root_fd = os.open(root, os.O_RDONLY)
    try:
        return open_beneath(root_fd, path, os.O_RDONLY)
    finally:
        os.close(root_fd)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "d/../../secret",
        "/etc/passwd",
        "up/secret",
        "abs/passwd",
        "inside/f",
        "d/file-link",
        "abs",
    ],
)
def test_ways_out_and_links_are_refused(root: Path, path: str) -> None:
    with pytest.raises(PathRefusedError):
        attempt(root, path)


def test_magic_links_are_refused() -> None:
    with pytest.raises(PathRefusedError):
        attempt(Path("/proc"), f"{os.getpid()}/cwd/x")


def test_other_file_systems_are_refused() -> None:
    with pytest.raises(PathRefusedError, match="another file system"):
        attempt(Path("/"), "proc/self")


def test_what_is_beneath_opens_and_what_is_not_there_says_so(root: Path) -> None:
    os.close(attempt(root, "d/f"))
    os.close(attempt(root, ""))
    with pytest.raises(FileNotFoundError):
        attempt(root, "d/none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/db/t/a", "t/a"),
        ("/srv/db", ""),
        ("/srv/db/", ""),
        ("t/a", "t/a"),
        ("./t//a/", "t/a"),
        ("/t/a", "t/a"),
        ("//srv/db/a", "a"),
        ("/srv/dbx/a", "srv/dbx/a"),
        ("/", ""),
    ],
)
def test_requested_paths(text: str, expected: str) -> None:
    assert requested_path(text, PurePosixPath("/srv/db")) == expected


@pytest.mark.parametrize("text", ["../x", "/srv/db/../x", "a/..", "a\0b"])
def test_refused_requests(text: str) -> None:
    with pytest.raises(PathRefusedError):
        requested_path(text, PurePosixPath("/srv/db"))


paths = st.lists(st.sampled_from("abc"), max_size=4).map("/".join)


@given(st.lists(paths, max_size=8))
def test_without_nested_covers_all_and_overlaps_nothing(given_paths: list[str]) -> None:
    kept = without_nested(given_paths)

    def covers(one: str, other: str) -> bool:
        return one in {"", other} or other.startswith(one + "/")

    assert all(any(covers(k, p) for k in kept) for p in given_paths)
    assert not any(covers(a, b) for a in kept for b in kept if a != b)


def test_names_that_are_not_text_are_shown_escaped() -> None:
    assert shown("a\udcffb") == "a\\xffb"
    assert shown("") == "/"
