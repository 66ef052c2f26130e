"""Configurations for tests of plans, and what initiators would find in a tree."""

from __future__ import annotations

from typing import Any

from targets.lio.configfs import Folder
from targets.lio.plan import HBA_PATH, Plan, plan
from targets.lio.wanted import (
    IQN_PREFIX,
    Backstore,
    Chap,
    Portal,
    PortalGroup,
    Target,
    Wanted,
)
from tests.unit.targets.lio.tree import SERIAL_TITLE, Configfs

HOST = "iqn.1993-08.org.debian:01:host1"
OTHER_HOST = "iqn.1993-08.org.debian:01:host2"
FOREIGN = "iqn.2003-01.org.linux-iscsi.other:x"
CHAP = Chap("user", "secret-of-host")
MUTUAL = Chap("user", "secret-of-host", "target", "secret-of-target")


def backstore(name: str = "trilun-v1", config: str = "trilun/1", **more: Any) -> Backstore:
    return Backstore(name, config, **{"size_bytes": 1 << 20, "serial": name.upper(), **more})


def simple(**more: Any) -> Wanted:
    """One volume on one target."""
    values: dict[str, Any] = {
        "luns": {0: "trilun-v1"}, "portals": (Portal("10.0.0.1"),), **more
    }  # fmt: skip
    target = Target(f"{IQN_PREFIX}n.v1", (PortalGroup(**values),))
    return Wanted((backstore(),), (target,))


def others() -> Configfs:
    """A host on which somebody else uses LIO, with names that are nearly ours."""
    tree = Configfs()
    devices = ("core/fileio_0", "core/user_3", "core/iblock_747")
    tree.make(*devices, "iscsi")
    for path in ("core/fileio_0/trilun-v1", "core/user_3/trilun", "core/user_3/rbd"):
        tree.make(path)
        tree.write(f"{path}/control", "dev_config=rbd/1")
        tree.write(f"{path}/control", "dev_size=4096")
        tree.write(f"{path}/enable", "1")
    for iqn in (FOREIGN, "iqn.2026-11.io.trilun2:n.v1", "iqn.2026-11.io.trilun"):
        tpg = f"iscsi/{iqn}/tpgt_1"
        tree.make(f"iscsi/{iqn}", tpg, f"{tpg}/lun/lun_0", f"{tpg}/np/10.0.0.1:3260")
        tree.link(f"{tpg}/lun/lun_0/x", "core/fileio_0/trilun-v1")
        tree.make(f"{tpg}/acls/{HOST}", f"{tpg}/acls/{HOST}/lun_0")
        tree.link(f"{tpg}/acls/{HOST}/lun_0/x", f"{tpg}/lun/lun_0")
        tree.write(f"{tpg}/enable", "1")
    return tree


def carry_out(tree: Configfs, wanted: Wanted, steps: int | None = None) -> Plan:
    made = plan(wanted, tree.root)
    for operation in made.operations[:steps]:
        tree.do(operation)
    return made


def foreign_part(tree: Configfs) -> Folder:
    """All that isn't ours."""
    root = tree.root.copied()
    root.folders["core"].folders.pop("user_747", None)
    iscsi = root.folders.get("iscsi", Folder())
    for iqn in [each for each in iscsi.folders if each.startswith(IQN_PREFIX)]:
        del iscsi.folders[iqn]
    return root


def chap_of(folder: Folder) -> tuple[str, ...]:
    values = folder.folders["auth"].files
    names = ("userid", "password", "userid_mutual", "password_mutual")
    return tuple("" if values[name] == "NULL" else values[name] for name in names)


def chap_wanted(chap: Chap | None) -> tuple[str, ...]:
    if chap is None:
        return ("", "", "", "")
    return (chap.user, chap.password, chap.mutual_user, chap.mutual_password)


def shown(tree: Configfs) -> dict[str, Any]:
    """What of ours initiators would find, read from the tree alone."""
    found: dict[str, Any] = {}
    hba = tree.root.find(HBA_PATH)
    for name, each in hba.folders.items() if hba else ():
        serial = each.folders["wwn"].files["vpd_unit_serial"].removeprefix(SERIAL_TITLE)
        config = each.files["info"].partition("Config: ")[2].split()[0]
        size = int(each.files["info"].partition(" Size: ")[2].split()[0])
        found[name] = (each.files["enable"], config, size, serial)
    iscsi = tree.root.find("iscsi") or Folder()
    for iqn, target in iscsi.folders.items():
        if iqn.startswith(IQN_PREFIX):
            found[iqn] = {tpg: _group_shown(each) for tpg, each in target.folders.items()}
    return found


def _group_shown(group: Folder) -> dict[str, Any]:
    part = group.folders
    attributes = part["attrib"].files
    return {
        "enabled": group.files["enable"],
        "portals": sorted(part["np"].folders),
        "luns": {name: list(each.links.values()) for name, each in part["lun"].folders.items()},
        "open": attributes["generate_node_acls"],
        "read only when open": attributes["demo_mode_write_protect"],
        "authentication": attributes["authentication"],
        "chap": chap_of(group),
        "acls": {
            name: (
                chap_of(acl),
                {
                    lun: (list(each.links.values()), each.files["write_protect"])
                    for lun, each in acl.folders.items()
                    if lun.startswith("lun_")
                },
            )
            for name, acl in part["acls"].folders.items()
        },
    }


def expected(wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {
        each.name: ("1", each.config, each.size_bytes, each.serial) for each in wanted.backstores
    }
    for target in wanted.targets:
        found[target.iqn] = {}
        for group in target.groups:
            tpg = f"iscsi/{target.iqn}/tpgt_{group.tag}"
            acls = {}
            for acl in group.acls:
                luns = {
                    f"lun_{n}": ([f"{tpg}/lun/lun_{to}"], "1" if n in acl.read_only else "0")
                    for n, to in acl.luns.items()
                }
                acls[acl.initiator] = (chap_wanted(acl.chap), luns)
            with_chap = group.chap or any(acl.chap for acl in group.acls)
            found[target.iqn][f"tpgt_{group.tag}"] = {
                "enabled": "1" if group.portals else "0",
                "portals": sorted(each.name for each in group.portals),
                "luns": {f"lun_{n}": [f"{HBA_PATH}/{name}"] for n, name in group.luns.items()},
                "open": "0" if group.acls else "1",
                "read only when open": "1" if group.acls else "0",
                "authentication": "1" if with_chap else "0",
                "chap": chap_wanted(group.chap),
                "acls": acls,
            }
    return found


def _take_kept(found: dict[str, Any], hoped: dict[str, Any]) -> None:
    """Open groups may have ACLs from before, which give what the group gives."""
    for iqn, groups in hoped.items():
        if not iqn.startswith(IQN_PREFIX):
            continue
        for name, group in groups.items():
            if group["open"] == "1":
                tpg = f"iscsi/{iqn}/{name}"
                luns = {each: ([f"{tpg}/lun/{each}"], "0") for each in group["luns"]}
                kept = found.get(iqn, {}).get(name, {}).get("acls", {})
                group["acls"] = dict.fromkeys(kept, (group["chap"], luns))


def fits(tree: Configfs, wanted: Wanted, obstacles: tuple[str, ...]) -> None:
    found, hoped = shown(tree), expected(wanted)
    _take_kept(found, hoped)
    assert all("would shrink" in each or "can't change it" in each for each in obstacles)
    if any("would shrink" in each for each in obstacles):  # the size is left as it was
        for each in wanted.backstores:
            found[each.name] = (*found[each.name][:2], each.size_bytes, found[each.name][3])
    for name in {*found, *hoped}:
        assert found.get(name) == hoped.get(name), (name, found.get(name), hoped.get(name))
    left = plan(wanted, tree.root).operations
    assert not left, left
