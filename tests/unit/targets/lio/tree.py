"""configfs in memory: what the kernel makes with a folder, and what it refuses."""

from __future__ import annotations

import errno
import re

from targets.lio.configfs import Folder, Kind, Operation

_TPG = r"iscsi/[^/]+/tpgt_\d+"
HBA = re.compile(r"core/[a-z]+_\d+")
DEVICE = re.compile(r"core/[a-z]+_\d+/[^/]+")
TARGET = re.compile(r"iscsi/[^/]+")
TPG = re.compile(_TPG)
LUN = re.compile(rf"{_TPG}/lun/lun_\d+")
PORTAL = re.compile(rf"{_TPG}/np/(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):\d+")
ACL = re.compile(rf"{_TPG}/acls/[^/]+")
MAPPED = re.compile(rf"{_TPG}/acls/[^/]+/lun_\d+")
MADE = (HBA, DEVICE, re.compile("iscsi"), TARGET, TPG, LUN, PORTAL, ACL, MAPPED)

FROZEN_ATTRIBUTES = {"cmd_time_out", "pgr_support"}
SERIAL_TITLE = "T10 VPD Unit Serial Number: "


class RefusedError(OSError):
    """The kernel says no."""

    def __init__(self, number: int, operation: Operation, why: str) -> None:
        super().__init__(number, f"{operation!r}: {why}")


def auth() -> Folder:
    names = ("userid", "password", "userid_mutual", "password_mutual")
    return Folder(files=dict.fromkeys(names, ""))


def device() -> Folder:
    attributes = {
        "cmd_time_out": "30",
        "qfull_time_out": "-1",
        "emulate_write_cache": "0",
        "pgr_support": "1",
        "dev_size": "0",
    }
    return Folder(
        files={"enable": "0", "info": ""},
        folders={
            "attrib": Folder(files=attributes),
            "wwn": Folder(files={"vpd_unit_serial": SERIAL_TITLE}),
        },
    )


def group() -> Folder:
    attributes = {
        "authentication": "0",
        "generate_node_acls": "0",
        "cache_dynamic_acls": "0",
        "demo_mode_discovery": "1",
        "demo_mode_write_protect": "1",
        "prod_mode_write_protect": "0",
    }
    return Folder(
        files={"enable": "0"},
        folders={
            "attrib": Folder(files=attributes),
            "auth": auth(),
            "param": Folder(files={"MaxBurstLength": "262144"}),
            "lun": Folder(),
            "np": Folder(),
            "acls": Folder(),
        },
    )


class Configfs:
    """The tree, and the system calls on it."""

    def __init__(self) -> None:
        self.root = Folder(folders={"core": Folder()})

    def make(self, *paths: str) -> None:
        for path in paths:
            self.do(Operation(Kind.MAKE, path))

    def write(self, path: str, value: str) -> None:
        self.do(Operation(Kind.WRITE, path, value))

    def link(self, path: str, target: str) -> None:
        self.do(Operation(Kind.LINK, path, target))

    def do(self, operation: Operation) -> None:
        """One system call; raises `RefusedError`."""
        parent_path, _, name = operation.path.rpartition("/")
        parent = self.root.find(parent_path)
        if parent is None:
            raise RefusedError(errno.ENOENT, operation, "no such folder")
        {
            Kind.MAKE: self._make,
            Kind.REMOVE: self._remove,
            Kind.WRITE: self._write,
            Kind.LINK: self._link,
            Kind.UNLINK: self._unlink,
        }[operation.kind](operation, parent, name)

    def _make(self, operation: Operation, parent: Folder, name: str) -> None:
        path = operation.path
        if name in parent.folders:
            return
        if not any(each.fullmatch(path) for each in MADE):
            raise RefusedError(errno.EPERM, operation, "not a place for folders")
        if DEVICE.fullmatch(path):
            made = device()
        elif TPG.fullmatch(path):
            made = group()
        elif ACL.fullmatch(path):
            made = Folder(folders={"auth": auth(), "attrib": Folder()})
        elif MAPPED.fullmatch(path):
            made = Folder(files={"write_protect": "0"})
        else:
            made = Folder()
        parent.folders[name] = made

    def _remove(self, operation: Operation, parent: Folder, name: str) -> None:
        path, folder = operation.path, parent.folders.get(name)
        if folder is None:
            return
        if not any(each.fullmatch(path) for each in MADE):
            raise RefusedError(errno.EPERM, operation, "the kernel's own folder")
        if any(made.startswith(f"{path}/") for made in self._made()) or folder.links:
            raise RefusedError(errno.ENOTEMPTY, operation, "not empty")
        if any(target == path for _, target in self.root.all_links()):
            raise RefusedError(errno.EBUSY, operation, "something links here")
        del parent.folders[name]

    def _made(self, folder: Folder | None = None, path: str = "") -> list[str]:
        found: list[str] = []
        for name, each in (folder or self.root).folders.items():
            here = f"{path}{name}"
            if any(pattern.fullmatch(here) for pattern in MADE):
                found.append(here)
            found += self._made(each, f"{here}/")
        return found

    def _exported(self, path: str) -> bool:
        return any(target == path for _, target in self.root.all_links())

    def _write(self, operation: Operation, parent: Folder, name: str) -> None:
        path, value = operation.path, operation.value
        above = path.rpartition("/")[0]
        if DEVICE.fullmatch(above) and name in {"control", "enable"}:
            self._set_up(operation, parent, name)
            return
        if name not in parent.files:
            raise RefusedError(errno.ENOENT, operation, "no such file")
        owner = above.rpartition("/")[0]
        if DEVICE.fullmatch(owner):
            of = self.root.find(owner)
            assert of is not None
            if of.files["enable"] != "1":
                raise RefusedError(errno.ENODEV, operation, "not set up")
            if name in FROZEN_ATTRIBUTES | {"vpd_unit_serial"} and self._exported(owner):
                raise RefusedError(errno.EINVAL, operation, "exported")
            if name == "vpd_unit_serial":
                value = SERIAL_TITLE + value
            if name == "dev_size":
                of.files["info"] = re.sub(r"Size: \d+", f"Size: {value}", of.files["info"])
        if TPG.fullmatch(above) and name == "enable":
            if value == parent.files["enable"]:
                raise RefusedError(errno.EINVAL, operation, "it is so already")
            if value == "1" and not parent.folders["np"].folders:
                raise RefusedError(errno.EINVAL, operation, "no portal")
        if MAPPED.fullmatch(above) and not parent.links:
            raise RefusedError(errno.ENODEV, operation, "not mapped")
        parent.files[name] = value

    def _set_up(self, operation: Operation, parent: Folder, name: str) -> None:
        if parent.files["enable"] == "1":
            raise RefusedError(errno.EEXIST, operation, "set up already")
        if name == "control":
            key, _, value = operation.value.partition("=")
            parent.files[f".{key}"] = value
            return
        if not {".dev_config", ".dev_size"} <= set(parent.files):
            raise RefusedError(errno.EINVAL, operation, "no size or no config")
        parent.files["enable"] = "1"
        parent.files["info"] = (
            f"Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 128\n"
            f"        Config: {parent.files['.dev_config']} Size: {parent.files['.dev_size']} "
            f"MaxDataAreaMB: 64 DataPagesPerBlk: 1 CmdRingSizeMB: 1"
        )

    def _link(self, operation: Operation, parent: Folder, name: str) -> None:
        above, target = operation.path.rpartition("/")[0], operation.value
        to = self.root.find(target)
        if name in parent.links or parent.links:
            raise RefusedError(errno.EEXIST, operation, "linked already")
        if to is None:
            raise RefusedError(errno.ENOENT, operation, "nothing to link to")
        if LUN.fullmatch(above) and DEVICE.fullmatch(target):
            if to.files["enable"] != "1":
                raise RefusedError(errno.ENODEV, operation, "not set up")
        elif MAPPED.fullmatch(above) and LUN.fullmatch(target):
            tpg = above.partition("/acls/")[0]
            if not target.startswith(f"{tpg}/lun/") or not to.links:
                raise RefusedError(errno.EINVAL, operation, "not a LUN of this group")
            group_folder = self.root.find(tpg)
            assert group_folder is not None
            attributes = group_folder.folders["attrib"].files
            parent.files["write_protect"] = attributes["prod_mode_write_protect"]
        else:
            raise RefusedError(errno.EPERM, operation, "not a place for links")
        parent.links[name] = target

    def _unlink(self, operation: Operation, parent: Folder, name: str) -> None:
        if name not in parent.links:
            raise RefusedError(errno.ENOENT, operation, "no such link")
        above = operation.path.rpartition("/")[0]
        if self._exported(above):
            raise RefusedError(errno.EBUSY, operation, "a mapped LUN links here")
        del parent.links[name]
