"""Reading and changing a tree of folders: on an ordinary file system, in configfs' shape."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from targets.lio.configfs import Kind, Operation
from targets.lio.tree import carry_out, read_tree
from targets.lio.wanted import IQN_PREFIX, Ownership

OWNER = Ownership(f"{IQN_PREFIX}n.", "trilun-n@")
IQN = f"{IQN_PREFIX}n.v"


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def link(path: Path, target: Path) -> None:
    """As configfs shows links: relative."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "target"
    ours = root / "core/user_747/trilun-n@v"
    put(ours / "enable", "1")
    put(ours / "info", "Config: trilun/v Size: 4096")
    put(ours / "wwn/vpd_unit_serial", "T10 VPD Unit Serial Number: S")
    put(ours / "attrib/cmd_time_out", "40")
    put(ours / "attrib/other", "1")
    put(root / "core/user_3/rbd/enable", "1")
    put(root / "core/fileio_0/trilun-n@v/enable", "1")
    group = root / "iscsi" / IQN / "tpgt_1"
    put(group / "enable", "1")
    put(group / "attrib/authentication", "1")
    put(group / "auth/userid", "user\n")  # as it was once written
    put(group / "auth/password", "secret")
    put(group / "lun/lun_0/statistics/x", "1")
    link(group / "lun/lun_0/backstore", ours)
    (group / "np/127.0.0.1:3260").mkdir(parents=True)
    put(group / "acls/iqn.h/lun_0/write_protect", "0")
    link(group / "acls/iqn.h/lun_0/lun", group / "lun/lun_0")
    put(root / "iscsi/discovery_auth/password", "hers")
    put(root / "iscsi/iqn.2003-01.org.other:x/tpgt_1/auth/password", "his")
    link(root / "iscsi/iqn.2003-01.org.other:x/tpgt_1/lun/lun_0/l", root / "core/user_3/rbd")
    link(root / "loopback/naa.1/tpgt_1/lun/lun_0/l", root / "core/fileio_0/trilun-n@v")
    return root


def test_ours_is_read_with_what_a_plan_looks_at(root: Path) -> None:
    tree = read_tree(root, OWNER, ("cmd_time_out",))
    ours = tree.find("core/user_747/trilun-n@v")
    assert ours is not None
    assert ours.files == {"enable": "1", "info": "Config: trilun/v Size: 4096"}
    assert ours.folders["attrib"].files == {"cmd_time_out": "40"}
    assert ours.folders["wwn"].files["vpd_unit_serial"].endswith(": S")
    group = tree.find(f"iscsi/{IQN}/tpgt_1")
    assert group is not None
    assert group.files == {"enable": "1"}
    assert group.folders["attrib"].files == {"authentication": "1"}
    assert group.folders["auth"].files == {"userid": "user\n", "password": "secret"}
    assert list(group.folders["np"].folders) == ["127.0.0.1:3260"]
    mapped = group.find("acls/iqn.h/lun_0")
    assert mapped is not None
    assert mapped.files == {"write_protect": "0"}
    assert mapped.links == {"lun": f"iscsi/{IQN}/tpgt_1/lun/lun_0"}


def test_of_others_only_the_links_are_read(root: Path) -> None:
    tree = read_tree(root, OWNER, ())
    links = dict(tree.all_links())
    assert links["iscsi/iqn.2003-01.org.other:x/tpgt_1/lun/lun_0/l"] == "core/user_3/rbd"
    assert links["loopback/naa.1/tpgt_1/lun/lun_0/l"] == "core/fileio_0/trilun-n@v"
    assert "his" not in str(_texts(tree.folders["iscsi"].folders["iqn.2003-01.org.other:x"]))
    assert tree.find("core/user_3/rbd") is not None
    assert tree.find("core/fileio_0") is None
    assert tree.find("iscsi/discovery_auth") is None


def _texts(folder: object) -> object:
    files, folders = folder.files, folder.folders  # type: ignore[attr-defined]
    return [*files.values(), *(_texts(each) for each in folders.values())]


def test_nothing_there_is_an_empty_tree(tmp_path: Path) -> None:
    assert list(read_tree(tmp_path / "none", OWNER, ()).all_links()) == []


def test_steps_are_taken_and_may_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        carry_out(tmp_path, Operation(Kind.MAKE, "a"))
    carry_out(tmp_path, Operation(Kind.MAKE, "b"))
    (tmp_path / "a/file").write_text("")
    carry_out(tmp_path, Operation(Kind.WRITE, "a/file", "value"))
    assert (tmp_path / "a/file").read_text() == "value", (
        "a line's end becomes part of a CHAP secret"
    )
    carry_out(tmp_path, Operation(Kind.LINK, "a/l", "b"))
    assert (tmp_path / "a/l").resolve() == (tmp_path / "b").resolve()
    carry_out(tmp_path, Operation(Kind.UNLINK, "a/l"))
    for _ in range(2):
        carry_out(tmp_path, Operation(Kind.REMOVE, "b"))
    with pytest.raises(FileNotFoundError):
        carry_out(tmp_path, Operation(Kind.WRITE, "a/none/file", "1"))
