"""Plans, one matter at a time: order, secrets, who gets in when, obstacles, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from targets.lio.configfs import Folder, Kind, Operation
from targets.lio.plan import HBA_PATH, Plan, plan
from targets.lio.wanted import (
    IQN_PREFIX,
    Acl,
    Chap,
    Ownership,
    Portal,
    PortalGroup,
    Target,
    Wanted,
    WantedError,
)
from tests.unit.targets.lio.offers import (
    CHAP,
    FOREIGN,
    HOST,
    MUTUAL,
    OTHER_HOST,
    backstore,
    carry_out,
    chap_of,
    foreign_part,
    others,
    shown,
    simple,
)
from tests.unit.targets.lio.tree import Configfs, RefusedError

pytestmark = pytest.mark.plain

# --------------------------------------------------------------------- single matters


def kinds(made: Plan) -> list[str]:
    return [repr(each) for each in made.operations]


def test_from_nothing_in_order() -> None:
    tpg = f"iscsi/{IQN_PREFIX}n.v1/tpgt_1"
    made = plan(simple(), Folder())
    assert kinds(made)[:4] == [
        "make core/user_747",
        f"make {HBA_PATH}/trilun-v1",
        *kinds(made)[2:4],
    ]
    assert f"link {tpg}/lun/lun_0/backstore {HBA_PATH}/trilun-v1" in kinds(made)
    assert kinds(made)[-1] == f"write {tpg}/enable 1"


def test_secrets_are_not_shown() -> None:
    made = plan(simple(chap=MUTUAL), Folder())
    assert "secret-of" not in repr(made)
    assert "secret-of" not in repr(MUTUAL)
    assert {each.value for each in made.operations if each.secret} == {
        "secret-of-host", "secret-of-target"
    }  # fmt: skip
    tree = Configfs()
    carry_out(tree, simple(chap=MUTUAL))
    assert "secret-of" not in repr(tree.root)


def test_nobody_gets_in_before_chap_is_asked_for() -> None:
    """From ACLs to everybody with CHAP, and back, on a group that is enabled all the time."""
    with_acl = simple(acls=(Acl(HOST, {0: 0}, chap=CHAP),))
    steps = [with_acl, simple(chap=MUTUAL), with_acl, simple(chap=CHAP)]
    tree = others()
    group = f"iscsi/{IQN_PREFIX}n.v1/tpgt_1"
    for goal in steps:
        for operation in plan(goal, tree.root).operations:
            tree.do(operation)
            folder = tree.root.find(group)
            if folder is None or folder.files["enable"] == "0":
                continue
            assert folder.folders["attrib"].files["authentication"] == "1"
            if folder.folders["attrib"].files["generate_node_acls"] == "1":
                assert all(chap_of(folder)[:2])


def test_credentials_are_there_before_they_are_asked_for() -> None:
    tree = others()
    carry_out(tree, simple())
    told = [each.path.rpartition("/")[2] for each in plan(simple(chap=CHAP), tree.root).operations]
    assert told == ["userid", "password", "authentication"]
    carry_out(tree, simple(chap=CHAP))
    told = [each.path.rpartition("/")[2] for each in plan(simple(), tree.root).operations]
    assert told == ["authentication", "userid", "password"]


def test_a_read_only_lun_is_never_writable() -> None:
    tree = others()
    wanted = simple(acls=(Acl(HOST, {0: 0}, frozenset({0})),))
    path = f"iscsi/{IQN_PREFIX}n.v1/tpgt_1/acls/{HOST}/lun_0"
    for operation in plan(wanted, tree.root).operations:
        tree.do(operation)
        folder = tree.root.find(path)
        assert folder is None or not folder.links or folder.files["write_protect"] == "1"


def test_growing_is_online() -> None:
    tree = others()
    carry_out(tree, simple())
    grown = Wanted((backstore(size_bytes=1 << 22),), simple().targets)
    made = carry_out(tree, grown)
    assert kinds(made) == [f"write {HBA_PATH}/trilun-v1/attrib/dev_size {1 << 22}"]
    assert made.obstacles == ()
    made = plan(simple(), tree.root)
    assert made.operations == ()
    assert "would shrink" in made.obstacles[0]


def test_attributes_that_need_an_idle_device_wait() -> None:
    tree = others()
    carry_out(tree, simple())
    tuned = Wanted(
        (backstore(attributes={"cmd_time_out": "0", "qfull_time_out": "7"}),), simple().targets
    )
    assert kinds(plan(tuned, tree.root)) == [f"write {HBA_PATH}/trilun-v1/attrib/qfull_time_out 7"]


def test_another_volume_under_an_old_name_is_a_new_device() -> None:
    tree = others()
    carry_out(tree, simple())
    made = carry_out(tree, Wanted((backstore(config="trilun/2"),), simple().targets))
    told = kinds(made)
    gone = told.index(f"remove {HBA_PATH}/trilun-v1")
    assert gone < told.index(f"make {HBA_PATH}/trilun-v1")
    assert not any("/enable 0" in each for each in told)  # its other LUNs stay up
    device = tree.root.find(f"{HBA_PATH}/trilun-v1")
    assert device is not None
    assert "Config: trilun/2 " in device.files["info"]


def test_a_group_without_portals_is_off() -> None:
    tree = others()
    carry_out(tree, simple())
    made = carry_out(tree, simple(portals=()))
    assert [each.split()[0] for each in kinds(made)] == ["write", "remove"]
    assert kinds(made)[0].endswith("enable 0")


@pytest.mark.parametrize(
    "wanted", [Wanted(), Wanted((backstore(config="trilun/2"),), simple().targets)]
)
def test_a_backstore_that_others_use_is_an_obstacle(wanted: Wanted) -> None:
    tree = others()
    carry_out(tree, simple())
    tpg = f"iscsi/{FOREIGN}/tpgt_1"
    tree.make(f"{tpg}/lun/lun_7")
    tree.link(f"{tpg}/lun/lun_7/y", f"{HBA_PATH}/trilun-v1")
    foreign = foreign_part(tree)
    made = carry_out(tree, wanted)
    assert made.obstacles == (
        f"{HBA_PATH}/trilun-v1 is in use by iscsi/{FOREIGN}, which isn't ours",
    )
    assert plan(wanted, tree.root).operations == ()
    assert foreign_part(tree) == foreign
    ours = tree.root.find(f"iscsi/{IQN_PREFIX}n.v1/tpgt_1/lun")
    assert ours is None or not ours.folders  # never another volume's data


def test_our_backstore_elsewhere_is_taken_as_it_is() -> None:
    tree = others()
    path = "core/user_9/trilun-v1"
    tree.make("core/user_9", path)
    tree.write(f"{path}/control", "dev_config=trilun/1")
    tree.write(f"{path}/control", f"dev_size={1 << 20}")
    tree.write(f"{path}/enable", "1")
    carry_out(tree, simple())
    lun = tree.root.find(f"iscsi/{IQN_PREFIX}n.v1/tpgt_1/lun/lun_0")
    assert lun is not None
    assert list(lun.links.values()) == [path]
    assert plan(simple(), tree.root).operations == ()
    carry_out(tree, Wanted())
    assert tree.root.find(path) is None


def test_two_nodes_on_one_host() -> None:
    def node(name: str) -> Wanted:
        owner = Ownership(f"{IQN_PREFIX}{name}.", f"trilun-{name}-")
        store = backstore(f"trilun-{name}-v")
        group = PortalGroup({0: store.name}, (Portal("10.0.0.1"),))
        return Wanted((store,), (Target(f"{IQN_PREFIX}{name}.v", (group,)),), owner)

    tree = others()
    for name in ("a", "b"):
        carry_out(tree, node(name))
    assert all(plan(node(name), tree.root).operations == () for name in ("a", "b"))
    carry_out(tree, Wanted(owner=node("a").owner))
    assert plan(node("b"), tree.root).operations == ()
    assert shown(tree).keys() == {"trilun-b-v", f"{IQN_PREFIX}b.v"}


def test_found_is_left_as_it_is() -> None:
    tree = others()
    before = tree.root.copied()
    plan(simple(), tree.root)
    assert tree.root == before


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"portals": (Portal("10.0.0.1"),) * 2}, PortalGroup),
        ({"luns": {256: "trilun-v1"}}, PortalGroup),
        ({"tag": 0}, PortalGroup),
        ({"acls": (Acl(HOST, {0: 1}),)}, PortalGroup),
        ({"acls": (Acl(HOST, {0: 0}),), "chap": CHAP}, PortalGroup),
        ({"acls": (Acl(HOST, {}), Acl(OTHER_HOST, {}, chap=CHAP))}, PortalGroup),
        ({"initiator": "host1", "luns": {}}, Acl),
        ({"initiator": HOST, "luns": {}, "read_only": frozenset({1})}, Acl),
        ({"host": "example.org"}, Portal),
        ({"host": "10.0.0.1", "port": 0}, Portal),
        ({"user": "", "password": "x"}, Chap),
        ({"user": "u", "password": "NULLIFIED"}, Chap),
        ({"user": "u", "password": "two\nlines"}, Chap),
        ({"user": "u", "password": "p", "mutual_user": "m"}, Chap),
        ({"config": "nothandler"}, backstore),
        ({"config": "trilun/a,b"}, backstore),
        ({"config": "trilun/a:b"}, backstore),
        ({"config": "trilun/" + "x" * 255}, backstore),
        ({"name": "trilun-a/b"}, backstore),
        ({"size_bytes": 1000}, backstore),
        ({"serial": "a b"}, backstore),
        ({"iqn": "iqn.2026-11.io.trilun:UPPER", "groups": ()}, Target),
        ({"backstores": (backstore("other"),)}, Wanted),
        ({"targets": (Target(FOREIGN, ()),)}, Wanted),
        ({"targets": simple().targets}, Wanted),
        ({"backstores": (backstore(), backstore())}, Wanted),
        ({"iqn_prefix": "iqn.2003-01"}, Ownership),
        ({"backstore_prefix": ""}, Ownership),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_before(
    values: Mapping[str, Any], kind: Any
) -> None:
    if kind is PortalGroup:
        values = {"luns": {0: "trilun-v1"}, "portals": (), **values}
    with pytest.raises(WantedError):
        kind(**values)


def test_the_tree_in_memory_refuses() -> None:
    """The checks above rest on it."""
    tree = others()
    carry_out(tree, simple(acls=(Acl(HOST, {0: 0}),)))
    tpg = f"iscsi/{IQN_PREFIX}n.v1/tpgt_1"
    for kind, path, value in (
        (Kind.REMOVE, tpg, ""),
        (Kind.REMOVE, f"{tpg}/lun", ""),
        (Kind.REMOVE, f"{tpg}/lun/lun_0", ""),
        (Kind.UNLINK, f"{tpg}/lun/lun_0/backstore", ""),
        (Kind.REMOVE, f"{HBA_PATH}/trilun-v1", ""),
        (Kind.REMOVE, HBA_PATH, ""),
        (Kind.MAKE, f"{tpg}/strange", ""),
        (Kind.WRITE, f"{tpg}/enable", "1"),
        (Kind.WRITE, f"{tpg}/strange", "1"),
        (Kind.WRITE, f"{HBA_PATH}/trilun-v1/control", "dev_size=1"),
        (Kind.WRITE, f"{HBA_PATH}/trilun-v1/wwn/vpd_unit_serial", "x"),
        (Kind.WRITE, f"{HBA_PATH}/trilun-v1/attrib/cmd_time_out", "1"),
        (Kind.LINK, f"{tpg}/lun/lun_0/second", f"{HBA_PATH}/trilun-v1"),
    ):
        with pytest.raises(RefusedError):
            tree.do(Operation(kind, path, value))
