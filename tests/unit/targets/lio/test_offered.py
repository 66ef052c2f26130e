"""Names in the kernel, portals that are bound, devices that are ours."""

from __future__ import annotations

from pathlib import Path

from targets.lio.configfs import Folder
from targets.lio.offered import bound_portals, our_devices
from targets.lio.uio import uio_names
from targets.lio.wanted import IQN_PREFIX, Ownership, Portal

OWNER = Ownership(f"{IQN_PREFIX}n.", "trilun-n@")
HERE, AWAY = Portal("10.0.0.1"), Portal("10.0.0.2")


def tree(iqn: str, portal: str) -> Folder:
    np = Folder(folders={portal: Folder()})
    group = Folder(folders={"np": np})
    return Folder(folders={"iscsi": Folder(folders={iqn: Folder(folders={"tpgt_1": group})})})


def test_a_portal_without_address_waits() -> None:
    bound = bound_portals((HERE, AWAY), frozenset({"10.0.0.1"}), Folder(), OWNER)
    assert bound == (HERE,)


def test_a_portal_that_lost_its_address_is_kept() -> None:
    found = tree(f"{IQN_PREFIX}n.v", AWAY.name)
    assert bound_portals((HERE, AWAY), frozenset(), found, OWNER) == (AWAY,)
    others = tree("iqn.2003-01.org.other:x", AWAY.name)
    assert bound_portals((HERE, AWAY), frozenset(), others, OWNER) == ()


def test_our_devices_are_those_of_this_node() -> None:
    names = {
        "tcm-user/747/trilun-n@1/trilun/1": "uio0",
        "tcm-user/3/trilun-n@2/trilun/2": "uio1",
        "tcm-user/747/trilun-n.b@1/trilun/1": "uio2",
        "tcm-user/1/rbd/rbd/pool/x": "uio3",
    }
    found = our_devices(names, OWNER)
    assert [(each.node, each.path, each.name, each.config) for each in found] == [
        ("uio0", "core/user_747/trilun-n@1", "trilun-n@1", "trilun/1"),
        ("uio1", "core/user_3/trilun-n@2", "trilun-n@2", "trilun/2"),
    ]


def test_uio_nodes_are_found_by_name(tmp_path: Path) -> None:
    for node, name in (("uio0", "tcm-user/1/a/b"), ("uio1", "some_card"), ("uio2", None)):
        (tmp_path / node).mkdir()
        if name is not None:
            (tmp_path / node / "name").write_text(f"{name}\n")
    assert uio_names(tmp_path) == {"tcm-user/1/a/b": "uio0"}
    assert uio_names(tmp_path / "none") == {}
