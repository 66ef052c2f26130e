"""The agent notices a mount namespace of its own, and goes to the host's where it has to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostagent.errors import HostError, ToolError
from hostagent.filesystem import host_namespace
from hostagent.filesystem.host_namespace import entrance, make_mountpoint, run_on_host

LINE = "{} 1 0:20 / {} rw,relatime{} - overlay none rw,lowerdir=x\n"
ALONE = LINE.format(25, "/", "")
SHARED = LINE.format(25, "/", " shared:1")
SLAVE = LINE.format(113, "/", " shared:42 master:1")


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Links as in /proc: inside of a namespace of our own, and root."""
    for name, number in (("OURS", 2), ("HOST", 1)):
        (tmp_path / name).symlink_to(f"mnt:[{number}]")
        monkeypatch.setattr(host_namespace, name, tmp_path / name)
    monkeypatch.setattr(host_namespace, "TABLE", tmp_path / "mountinfo")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def hide_the_host(links: Path, monkeypatch: pytest.MonkeyPatch, mountinfo: str) -> None:
    """What process 1 has can't be looked at: no CAP_SYS_PTRACE, or another's process 1."""
    readlink = Path.readlink

    def refuse(path: Path) -> Path:
        if path == links / "HOST":
            raise PermissionError(13, "Permission denied", str(path))
        return readlink(path)

    monkeypatch.setattr(Path, "readlink", refuse)
    (links / "mountinfo").write_text(mountinfo)


def test_the_hosts_namespace_is_entered_by_root_inside_of_another(links: Path) -> None:
    assert entrance() == ["/usr/bin/nsenter", f"--mount={links / 'HOST'}", "--"]


def test_where_we_are_the_host_nothing_changes(links: Path, tmp_path: Path) -> None:
    (links / "HOST").unlink()
    (links / "HOST").symlink_to("mnt:[2]")
    assert entrance() == []
    assert run_on_host(["sh", "-c", "echo here"]) == "here"
    make_mountpoint(tmp_path / "a/b")
    make_mountpoint(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


def test_who_is_not_root_mounts_for_himself(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entrance()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert entrance() == []


@pytest.mark.parametrize(
    ("mountinfo", "inside"),
    [
        (ALONE, False),
        (SHARED, False),
        (SLAVE, True),
        (SHARED + SLAVE, True),
        (SLAVE + ALONE, False),
        (SHARED + LINE.format(30, "/srv", " master:9"), False),
        (SHARED.replace("lowerdir=x", "lowerdir=master:1"), False),
    ],
)
def test_where_process_1_is_hidden_the_mount_table_tells(
    links: Path, monkeypatch: pytest.MonkeyPatch, mountinfo: str, inside: bool
) -> None:
    hide_the_host(links, monkeypatch, mountinfo)
    assert bool(entrance()) is inside


def test_a_way_that_is_barred_is_said(links: Path, tmp_path: Path) -> None:
    """A service that lost what it needs mounts nothing where nobody would see it."""
    with pytest.raises(HostError, match="would not reach the host: nsenter: ") as caught:
        make_mountpoint(tmp_path / "x")
    assert not isinstance(caught.value, ToolError)
    assert "RestrictNamespaces=mnt" in caught.value.next_step
    assert not (tmp_path / "x").exists()
