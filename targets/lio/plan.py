"""From what configfs shows now to what is wanted: the steps, in an order the kernel accepts.

Owns the order and what counts as ours. Must not apply anything, nor touch what isn't ours: a
foreign object in the way is an obstacle, which is named. Fails never; the model is checked
before (`wanted`).

The plan is made anew from the tree whenever something may have changed: after a start, after
a failed step, after a crash between two steps. Every prefix of a plan leaves a tree from which
the next plan reaches the goal, and the plan for the goal is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from targets.lio.admission import acls_of, has_to_go
from targets.lio.configfs import Folder, Kind, Operation, apply
from targets.lio.wanted import (
    BACKSTORE_PREFIX,
    HBA,
    Acl,
    Backstore,
    Chap,
    PortalGroup,
    Target,
    Wanted,
)

HBA_PATH = f"core/user_{HBA}"
BACKSTORE_LINK = "backstore"
LUN_LINK = "lun"

# The kernel takes these although initiators use the device; others wait until nobody does.
LIVE_ATTRIBUTES = frozenset({"qfull_time_out", "emulate_write_cache"})

_CONFIG = re.compile(r"\bConfig: (\S+)")
_SIZE = re.compile(r"\bSize: (\d+)")


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, and what stays undone because somebody else holds it."""

    operations: tuple[Operation, ...]
    obstacles: tuple[str, ...] = ()
    """Sentences for the operator."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Backstores of ours that somebody else's target shows: nothing may be done to them. Each
    with its sentence."""


def plan(wanted: Wanted, found: Folder) -> Plan:
    """The steps from `found` (all of configfs' target tree that matters) to `wanted`.

    `found` has to hold the `core/user_*` folders, our targets, and, for obstacles to be named
    and not refused by the kernel, the LUN links of everybody else's.
    """
    return _Planner(wanted, found).run()


class _Planner:
    """Emits steps, and follows them on a copy of the tree."""

    def __init__(self, wanted: Wanted, found: Folder) -> None:
        self.wanted = wanted
        self.tree = found.copied()
        self.operations: list[Operation] = []
        self.obstacles: list[str] = []
        self.backstores = {each.name: each for each in wanted.backstores}
        self.places: dict[str, str] = {}
        """Where a wanted backstore is, or will be."""
        self.blocked: set[str] = set()
        """Wanted backstores that somebody else's target keeps from being made anew."""
        self.held: dict[str, str] = {}
        self.doomed: list[str] = []
        """Where backstores are that have to go."""
        self.exported = {target for _, target in found.all_links()}

    def run(self) -> Plan:
        """Take down what is in the way, then build."""
        self._sort_backstores()
        targets = {each.iqn: each for each in self.wanted.targets}
        for iqn in self._ours():
            self._clear_target(iqn, targets.get(iqn))
        for path in self.doomed:
            self._do(Kind.REMOVE, path)
        self.exported = {target for _, target in self.tree.all_links()}
        for backstore in self.wanted.backstores:
            if backstore.name not in self.blocked:
                self._build_backstore(backstore)
        if not self.wanted.backstores and self._is_empty(HBA_PATH):
            self._do(Kind.REMOVE, HBA_PATH)
        for target in self.wanted.targets:
            self._build_target(target)
        return Plan(tuple(self.operations), tuple(self.obstacles), self.held)

    def _do(self, kind: Kind, path: str, value: str = "", *, secret: bool = False) -> None:
        operation = Operation(kind, path, value, secret)
        self.operations.append(operation)
        apply(self.tree, operation)

    def _is_empty(self, path: str) -> bool:
        folder = self.tree.find(path)
        return folder is not None and not folder.folders

    def _names(self, path: str, prefix: str = "") -> list[str]:
        folder = self.tree.find(path)
        return sorted(n for n in folder.folders if n.startswith(prefix)) if folder else []

    def _make(self, path: str) -> None:
        if self.tree.find(path) is None:
            self._do(Kind.MAKE, path)

    def _set(self, path: str, value: str, *, secret: bool = False) -> None:
        """Write a file that doesn't hold `value` yet."""
        parent, _, name = path.rpartition("/")
        folder = self.tree.find(parent)
        if folder is None or folder.files.get(name) != value:
            if folder is None:  # made by the kernel with the folder above it
                self._grown(parent)
            self._do(Kind.WRITE, path, value, secret=secret)

    def _grown(self, path: str) -> None:
        """A folder that the kernel makes by itself: followed, not emitted."""
        at = self.tree
        for name in path.split("/"):
            at = at.folders.setdefault(name, Folder())

    # ------------------------------------------------------------------------ backstores

    def _ours(self) -> list[str]:
        """Targets that are wanted, and leftovers: those of our name on nothing but our backstores.

        Names of nodes may hold dots: `a.b`'s targets begin as those of a node `a` do.
        """
        wanted = {each.iqn for each in self.wanted.targets}
        named = self._names("iscsi", self.wanted.owner.iqn_prefix)
        return [iqn for iqn in named if iqn in wanted or self._is_leftover(iqn)]

    def _is_leftover(self, iqn: str) -> bool:
        target = self.tree.find(f"iscsi/{iqn}")
        assert target is not None
        links = [to for _, to in target.all_links() if to.startswith("core/")]
        prefix = self.wanted.owner.backstore_prefix
        return all(
            hba.startswith("user_") and name.startswith(prefix)
            for _, hba, name in (to.split("/", 2) for to in links)
        )

    def _sort_backstores(self) -> None:
        """Find ours: to stay, to go, or held by others. The tree is as it was found."""
        prefix = self.wanted.owner.backstore_prefix
        mine = set(self._ours())
        foreign = {
            target: path
            for path, target in self.tree.all_links()
            if not (path.startswith("iscsi/") and path.split("/")[1] in mine)
        }
        for hba in self._names("core", "user_"):
            for name in self._names(f"core/{hba}", prefix):
                path = f"core/{hba}/{name}"
                backstore = self.backstores.get(name)
                if backstore is not None and name not in self.places and self._fits(path):
                    self.places[name] = path
                elif path in foreign:
                    holder = "/".join(foreign[path].split("/")[:2])
                    self.held[path] = f"{path} is in use by {holder}, which isn't ours"
                    self.obstacles.append(self.held[path])
                    self.blocked.add(name)
                else:
                    self.doomed.append(path)
        self.blocked -= set(self.places)
        for name in self.backstores:
            self.places.setdefault(name, f"{HBA_PATH}/{name}")

    def _fits(self, path: str) -> bool:
        """Whether a backstore that is there can become the wanted one without a new start."""
        folder = self.tree.find(path)
        assert folder is not None
        if folder.files.get("enable", "0") != "1":
            return True
        backstore = self.backstores[path.rpartition("/")[2]]
        config = _CONFIG.search(folder.files.get("info", ""))
        if config is None or config[1] != backstore.config:
            return False
        return path not in self.exported or self._serial(path) == backstore.serial

    def _serial(self, path: str) -> str:
        wwn = self.tree.find(f"{path}/wwn")
        # Read back behind a title: `T10 VPD Unit Serial Number: …`.
        return wwn.files.get("vpd_unit_serial", "").rpartition(":")[2].strip() if wwn else ""

    def _build_backstore(self, backstore: Backstore) -> None:
        path = self.places[backstore.name]
        self._grown("core")
        self._make(path.rpartition("/")[0])
        self._make(path)
        folder = self.tree.find(path)
        assert folder is not None
        if folder.files.get("enable", "0") != "1":
            control = f"{path}/control"
            self._do(Kind.WRITE, control, f"dev_config={backstore.config}")
            self._do(Kind.WRITE, control, f"dev_size={backstore.size_bytes}")
            self._do(Kind.WRITE, control, f"hw_max_sectors={backstore.hw_max_sectors}")
            self._do(Kind.WRITE, control, f"cmd_ring_size_mb={backstore.ring_mb}")
            self._do(Kind.WRITE, control, f"max_data_area_mb={backstore.data_mb}")
            # No netlink answer of ours is waited for: see events.
            self._do(Kind.WRITE, control, "nl_reply_supported=-1")
            self._do(Kind.WRITE, f"{path}/enable", "1")
        else:
            self._resize(path, backstore, folder)
        if self._serial(path) != backstore.serial:
            self._grown(f"{path}/wwn")
            self._do(Kind.WRITE, f"{path}/wwn/vpd_unit_serial", backstore.serial)
        for name, value in backstore.attributes.items():
            if name in LIVE_ATTRIBUTES or path not in self.exported:
                self._set(f"{path}/attrib/{name}", value)
            else:
                self._tell_unchanged(path, name, value)

    def _tell_unchanged(self, path: str, name: str, value: str) -> None:
        folder = self.tree.find(f"{path}/attrib")
        found = folder.files.get(name, value) if folder else value
        if found != value:
            prefix = self.wanted.owner.backstore_prefix
            node = prefix.removeprefix(BACKSTORE_PREFIX).rstrip("@")
            self.obstacles.append(
                f"{path} has {name} {found} instead of {value}, and can't change it under its "
                "target; it will at the next boot, or log hosts out, stop the controller and run "
                f"python -m targets.lio --node {node or 'NODE'}"
            )

    def _resize(self, path: str, backstore: Backstore, folder: Folder) -> None:
        size = _SIZE.search(folder.files.get("info", ""))
        found_bytes = int(size[1]) if size else 0
        if found_bytes > backstore.size_bytes:
            self.obstacles.append(
                f"{path} has {found_bytes} bytes and would shrink to {backstore.size_bytes}"
            )
        elif found_bytes < backstore.size_bytes:
            self._grown(f"{path}/attrib")
            self._do(Kind.WRITE, f"{path}/attrib/dev_size", str(backstore.size_bytes))

    # ------------------------------------------------------------------------ taking down

    def _clear_target(self, iqn: str, target: Target | None) -> None:
        """Remove what isn't wanted, or links to something else than what is wanted."""
        path = f"iscsi/{iqn}"
        groups = {f"tpgt_{each.tag}": each for each in target.groups} if target else {}
        for name in self._names(path, "tpgt_"):
            self._clear_group(f"{path}/{name}", groups.get(name))
        if target is None:
            self._do(Kind.REMOVE, path)

    def _clear_group(self, path: str, group: PortalGroup | None) -> None:
        folder = self.tree.find(path)
        assert folder is not None
        if group is not None and has_to_go(folder, group):
            group = None
        if (group is None or not group.portals) and folder.files.get("enable", "0") == "1":
            self._do(Kind.WRITE, f"{path}/enable", "0")
        wrong = self._wrong_luns(path, group)
        acls = {each.initiator: each for each in acls_of(folder, group)} if group else {}
        for initiator in self._names(f"{path}/acls"):
            self._clear_acl(path, initiator, acls.get(initiator), wrong)
        for name in wrong:
            self._empty(f"{path}/lun/{name}")
        portals = {each.name for each in group.portals} if group else set()
        for name in self._names(f"{path}/np"):
            if name not in portals:
                self._do(Kind.REMOVE, f"{path}/np/{name}")
        if group is None:
            self._do(Kind.REMOVE, path)

    def _wrong_luns(self, path: str, group: PortalGroup | None) -> list[str]:
        wrong: list[str] = []
        luns = {f"lun_{n}": name for n, name in group.luns.items()} if group else {}
        for name in self._names(f"{path}/lun", "lun_"):
            folder = self.tree.find(f"{path}/lun/{name}")
            backstore = luns.get(name)
            links = list(folder.links.values()) if folder else []
            place = self.places.get(backstore, "") if backstore is not None else ""
            stays = backstore not in self.blocked and place not in self.doomed
            if backstore is None or (links and (links != [place] or not stays)):
                wrong.append(name)
        return wrong

    def _empty(self, path: str) -> None:
        """Remove a folder of links."""
        folder = self.tree.find(path)
        assert folder is not None
        for name in sorted(folder.links):
            self._do(Kind.UNLINK, f"{path}/{name}")
        self._do(Kind.REMOVE, path)

    def _clear_acl(self, path: str, initiator: str, acl: Acl | None, wrong: list[str]) -> None:
        own = f"{path}/acls/{initiator}"
        for name in self._names(own, "lun_"):
            folder = self.tree.find(f"{own}/{name}")
            links = list(folder.links.values()) if folder else []
            lun = acl.luns.get(int(name[4:])) if acl and name[4:].isdigit() else None
            right = lun is not None and links in ([], [f"{path}/lun/lun_{lun}"])
            if not right or (links and links[0].rpartition("/")[2] in wrong):
                self._empty(f"{own}/{name}")
        if acl is None:
            self._do(Kind.REMOVE, own)

    # ------------------------------------------------------------------------ building

    def _build_target(self, target: Target) -> None:
        path = f"iscsi/{target.iqn}"
        self._make("iscsi")
        self._make(path)
        for group in target.groups:
            self._build_group(f"{path}/tpgt_{group.tag}", group)

    def _build_group(self, path: str, group: PortalGroup) -> None:
        """What keeps initiators out comes first, what lets them in last."""
        self._make(path)
        with_chap = group.chap is not None or any(acl.chap for acl in group.acls)
        if group.acls:
            self._open_to_all(path, "0")
            # A mapped LUN begins as read-only, until it is said not to be.
            self._set(f"{path}/attrib/prod_mode_write_protect", "1")
        if with_chap:
            self._build_chap(path, group.chap)
            self._set(f"{path}/attrib/authentication", "1")
        for number, name in group.luns.items():
            if name not in self.blocked:
                self._build_link(f"{path}/lun", number, BACKSTORE_LINK, self.places[name])
        for acl in acls_of(self.tree.find(path), group):
            self._build_acl(path, acl)
        if not with_chap:
            self._set(f"{path}/attrib/authentication", "0")
            self._build_chap(path, None)
        if not group.acls:
            self._open_to_all(path, "1")
        for portal in group.portals:
            self._grown(f"{path}/np")
            self._make(f"{path}/np/{portal.name}")
        if group.portals:
            self._set(f"{path}/enable", "1")

    def _open_to_all(self, path: str, value: str) -> None:
        """Whether initiators without an ACL find the target, get one at login, and may write."""
        names = ("generate_node_acls", "cache_dynamic_acls", "demo_mode_discovery")
        for name in names if value == "0" else reversed(names):
            self._set(f"{path}/attrib/{name}", value)
        read_only = "1" if value == "0" else "0"
        self._set(f"{path}/attrib/demo_mode_write_protect", read_only)

    def _build_link(self, parent: str, number: int, link: str, target: str) -> None:
        path = f"{parent}/lun_{number}"
        self._grown(parent)
        self._make(path)
        folder = self.tree.find(path)
        assert folder is not None
        if not folder.links:
            self._do(Kind.LINK, f"{path}/{link}", target)
            folder.files.clear()  # the kernel sets them anew

    def _build_acl(self, path: str, acl: Acl) -> None:
        own = f"{path}/acls/{acl.initiator}"
        self._grown(f"{path}/acls")
        self._make(own)
        self._build_chap(own, acl.chap)
        for mapped, number in acl.luns.items():
            lun = self.tree.find(f"{path}/lun/lun_{number}")
            if lun is None or not lun.links:
                continue  # blocked: there is nothing to map
            self._build_link(own, mapped, LUN_LINK, f"{path}/lun/lun_{number}")
            read_only = "1" if mapped in acl.read_only else "0"
            self._set(f"{own}/lun_{mapped}/write_protect", read_only)

    def _build_chap(self, path: str, chap: Chap | None) -> None:
        values = {
            "userid": chap.user if chap else "",
            "password": chap.password if chap else "",
            "userid_mutual": chap.mutual_user if chap else "",
            "password_mutual": chap.mutual_password if chap else "",
        }
        auth = self.tree.find(f"{path}/auth")
        for name, value in values.items():
            found = auth.files.get(name, "") if auth else ""
            if value != ("" if found == "NULL" else found):
                secret = name.startswith("password")
                self._set(f"{path}/auth/{name}", value or "NULL", secret=secret)
