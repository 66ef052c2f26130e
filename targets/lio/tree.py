"""The kernel's target configuration as it is: read into a picture, changed one call at a time.

Owns the system calls on configfs. A shell; blocking, and a call may sleep in the kernel for long:
for the worker's thread only. Must not decide what to change (`plan` does). Fails with OSError.

Each `Operation` is exactly one system call. rtslib-fb would do several at a time (it makes a
backstore, or removes a LUN with all that hangs on it, in one method), and no plan could say in
which state a daemon's death leaves the tree; it also lists all objects before each change.
"""

from __future__ import annotations

import os
from pathlib import Path

from targets.lio.configfs import Folder, Kind, Operation
from targets.lio.sessions import Listed
from targets.lio.wanted import Ownership

CONFIGFS_TARGET = Path("/sys/kernel/config/target")

_BACKSTORE_FILES = ("enable", "info")
_BACKSTORE_FOLDERS = frozenset({"wwn", "attrib"})
_GROUP_FOLDERS = frozenset({"attrib", "auth", "lun", "np", "acls"})
_FILES = {
    "wwn": ("vpd_unit_serial",),
    "auth": ("userid", "password", "userid_mutual", "password_mutual"),
}
_GROUP_ATTRIBUTES = (
    "authentication",
    "generate_node_acls",
    "cache_dynamic_acls",
    "demo_mode_discovery",
    "demo_mode_write_protect",
    "prod_mode_write_protect",
)
_DULL = frozenset({"statistics", "alua", "action", "pr", "fabric_statistics", "param"})
"""Folders in which nothing links to a backstore, and nothing is ours to set."""


def read_tree(root: Path, owner: Ownership, attributes: tuple[str, ...]) -> Folder:
    """What a plan has to know: our objects with their files, and everybody's links.

    `attributes`: the names in a backstore's `attrib` that are wanted.
    """
    tree = Folder()
    core = _sub(tree, "core")
    for hba in _folders(root / "core"):
        if hba.startswith("user_"):
            adapter = _sub(core, hba)
            for name in _folders(root / "core" / hba):
                path = root / "core" / hba / name
                ours = name.startswith(owner.backstore_prefix)
                adapter.folders[name] = _backstore(path, attributes) if ours else Folder()
    for fabric in _folders(root):
        if fabric == "core":
            continue
        found = _sub(tree, fabric)
        for name in _folders(root / fabric):
            path = root / fabric / name
            if fabric == "iscsi" and name.startswith(owner.iqn_prefix):
                found.folders[name] = _target(root, path)
            elif name != "discovery_auth":
                found.folders[name] = _links(root, path)
    return tree


def read_sessions(group: Path) -> Listed:
    """Who is logged in to a portal group; nobody where it isn't."""
    infos = {name: _text(group / "acls" / name / "info") for name in _folders(group / "acls")}
    return Listed(_text(group / "dynamic_sessions"), infos)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def carry_out(root: Path, operation: Operation) -> None:
    """One step; raises OSError. What is there, or gone, already is fine."""
    path = root / operation.path
    kind = operation.kind
    if kind is Kind.MAKE:
        path.mkdir(exist_ok=True)
    elif kind is Kind.REMOVE:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
    elif kind is Kind.WRITE:
        _write(path, operation.value)
    elif kind is Kind.LINK:
        path.symlink_to(root / operation.value)
    else:
        path.unlink()


def _write(path: Path, value: str) -> None:
    """One write system call: configfs takes each call as a whole value, a line's end included."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _sub(folder: Folder, name: str) -> Folder:
    return folder.folders.setdefault(name, Folder())


def _read(folder: Folder, path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        try:
            text = (path / name).read_text(errors="replace")
        except OSError:  # a kernel without it, or one that shows it in certain states only
            continue
        folder.files[name] = text.removesuffix("\n")


def _backstore(path: Path, attributes: tuple[str, ...]) -> Folder:
    folder = Folder()
    _read(folder, path, _BACKSTORE_FILES)
    _read(_sub(folder, "wwn"), path / "wwn", _FILES["wwn"])
    _read(_sub(folder, "attrib"), path / "attrib", attributes)
    return folder


def _target(root: Path, path: Path) -> Folder:
    target = Folder()
    for name in _folders(path):
        if name.startswith("tpgt_"):
            target.folders[name] = _group(root, path / name)
    return target


def _group(root: Path, path: Path) -> Folder:
    group = Folder()
    _read(group, path, ("enable",))
    for name in _folders(path):
        if name in _GROUP_FOLDERS:
            group.folders[name] = _links(root, path / name, with_files=True)
    _read(_sub(group, "attrib"), path / "attrib", _GROUP_ATTRIBUTES)
    return group


def _links(root: Path, path: Path, *, with_files: bool = False) -> Folder:
    """A folder with its folders and links; with the files that matter in those of ours."""
    folder = Folder()
    try:
        with os.scandir(path) as entries:
            for each in entries:
                if each.is_symlink():
                    target = os.path.normpath(path / os.readlink(each.path))  # noqa: PTH115
                    folder.links[each.name] = os.path.relpath(target, root)
                elif each.is_dir() and each.name not in _DULL:
                    below = _links(root, path / each.name, with_files=with_files)
                    folder.folders[each.name] = below
    except FileNotFoundError:
        return folder
    if with_files:
        _read(folder, path, _FILES.get(path.name, ()))
        if path.name.startswith("lun_"):
            _read(folder, path, ("write_protect",))
    return folder
