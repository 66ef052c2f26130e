"""Patterns against real folders, and against a matcher that shares no code with them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.api.codes import Code
from controller.api.file_names import from_wire, to_wire
from hostagent.copying import patterns
from hostagent.copying.content import Work
from hostagent.copying.patterns import Expanded, asked_path, expand
from hostagent.errors import HostError, InterruptedWorkError, PathRefusedError

QUIET = Work(lambda _: None, lambda: False)
MOUNTPOINT = PurePosixPath("/srv/db")


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)


def expanded(root: Path, *texts: str, work: Work = QUIET) -> Expanded:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return expand(fd, [asked_path(text, MOUNTPOINT) for text in texts], work)
    finally:
        os.close(fd)


TREE = (
    "books/a.dat",
    "books/b.dat",
    "books/b.txt",
    "books/.hidden.dat",
    "books/old/c.dat",
    "books/old/older/d.dat",
    "empty/",
    "a[1].txt",
    "star*.txt",
    "star9.txt",
    "top.dat",
)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("books/*.dat", ["books/.hidden.dat", "books/a.dat", "books/b.dat"]),
        ("/srv/db/books/?.dat", ["books/a.dat", "books/b.dat"]),
        ("books/[!a].dat", ["books/b.dat"]),
        ("*/b.*", ["books/b.dat", "books/b.txt"]),
        ("**/*.dat", [
            "books/.hidden.dat", "books/a.dat", "books/b.dat", "books/old/c.dat",
            "books/old/older/d.dat", "top.dat",
        ]),
        ("books/**/d.dat", ["books/old/older/d.dat"]),
        ("books/**/**/d.dat", ["books/old/older/d.dat"]),
        ("books/**", [
            "books/.hidden.dat", "books/a.dat", "books/b.dat", "books/b.txt", "books/old",
        ]),
        ("books/", ["books"]),
        ("*/", ["books", "empty"]),
        ("top.dat/", []),
        ("a[1].txt", ["a[1].txt"]),
        (r"star\*.txt", ["star*.txt"]),
        ("star*.txt", ["star*.txt"]),
        ("star?.txt", ["star*.txt", "star9.txt"]),
        ("books/*.none", []),
        ("none/*", []),
        ("top.dat/*", []),
        (".", [""]),
    ],
)  # fmt: skip
def test_what_a_pattern_matches(tmp_path: Path, asked: str, found: list[str]) -> None:
    make(tmp_path, *TREE)
    result = expanded(tmp_path, asked)
    assert result.names == found
    assert bool(result.missing) is not bool(found)


def test_several_are_one_set(tmp_path: Path) -> None:
    make(tmp_path, *TREE)
    result = expanded(tmp_path, "books/*.dat", "books/old", "books/**/c.dat", "nothing", "no*")
    assert result.names == ["books/.hidden.dat", "books/a.dat", "books/b.dat", "books/old"]
    assert result.missing == ["nothing", "no*"]


@pytest.mark.parametrize("text", ["../*", "a/../*", r"a/\../*", r"\.\./x*", "a\0*"])
def test_no_way_out(text: str) -> None:
    with pytest.raises(PathRefusedError):
        asked_path(text, MOUNTPOINT)


def test_links_are_found_and_never_followed(tmp_path: Path) -> None:
    make(tmp_path, "in/x.dat", "out/y.dat")
    (tmp_path / "in/to-out").symlink_to("../out")
    (tmp_path / "in/to-etc").symlink_to("/etc")
    assert expanded(tmp_path, "in/*").names == ["in/to-etc", "in/to-out", "in/x.dat"]
    assert expanded(tmp_path, "in/*/*").names == []
    assert expanded(tmp_path, "in/**/*.dat").names == ["in/x.dat"]
    with pytest.raises(PathRefusedError, match="symbolic link"):
        expanded(tmp_path, "in/to-out/*")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root (mounts)")
def test_what_is_mounted_beneath_is_not_entered(tmp_path: Path) -> None:
    make(tmp_path, "in/x.dat", "in/other/")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "in/other")], check=True)
    try:
        make(tmp_path, "in/other/y.dat")
        assert expanded(tmp_path, "**/*.dat").names == ["in/x.dat"]
    finally:
        subprocess.run(["umount", str(tmp_path / "in/other")], check=True)


def test_a_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"d{n}/f{k}" for n in range(4) for k in range(5)))
    monkeypatch.setattr(patterns, "MAX_VISITED", 10)
    with pytest.raises(HostError, match="more than 10 files") as caught:
        expanded(tmp_path, "**/f1")
    assert caught.value.code is Code.BAD_REQUEST
    monkeypatch.setattr(patterns, "MAX_VISITED", 1000)
    monkeypatch.setattr(patterns, "MAX_PATHS", 19)
    with pytest.raises(HostError, match="more than 19 files match"):
        expanded(tmp_path, "*/*")
    with pytest.raises(InterruptedWorkError):
        expanded(tmp_path, "*/*", work=Work(lambda _: None, lambda: True))


def test_many_stars_cost_no_time(tmp_path: Path) -> None:
    make(tmp_path, "a" * 250)
    assert expanded(tmp_path, "*a" * 60 + "b").names == []


def test_names_that_are_no_utf8_are_matched_and_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.dat")
    (tmp_path / name).write_text("x")
    assert expanded(tmp_path, "caf*.dat").names == [name]


WORD = st.text(alphabet="ab*?.", min_size=1, max_size=4).filter(lambda t: t not in {".", ".."})


def regex_of(part: str) -> str:
    signs = {"*": "[^/]*", "?": "[^/]"}
    return "".join(signs.get(sign, re.escape(sign)) for sign in part)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(WORD | st.just("**"), min_size=1, max_size=3))
def test_patterns_mean_what_a_regular_expression_means(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    parts = [part if part == "**" else part.replace("**", "*") for part in parts]
    root = tmp_path_factory.mktemp("tree")
    make(root, "a/b/a.b", "a/ab", "b/a/a/b", "ab.", "a.b", "b/b")
    everything = [str(path.relative_to(root)) for path in root.rglob("*")]
    wanted = ""
    for at, part in enumerate(parts):
        last = at + 1 == len(parts)
        if part == "**":
            wanted += ".+" if last else "(?:.+/)?"
        else:
            wanted += regex_of(part) + ("" if last else "/")
    expected = {path for path in everything if re.fullmatch(wanted, path)}
    found = set(expanded(root, "/".join(parts)).names)
    kept = {p for p in expected if not any(p.startswith(f"{above}/") for above in expected)}
    assert found == kept


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_any_name_survives_the_wire(raw: bytes) -> None:
    name = os.fsdecode(raw)
    text = to_wire(name)
    text.encode()
    assert from_wire(text) == name
