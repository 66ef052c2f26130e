"""A picture of the kernel's target configuration in configfs, and the steps that change it.

Owns the words of the plan: a tree of folders, files and links below `/sys/kernel/config/target`,
and one operation for each system call. Must not touch the real tree. Fails with KeyError only
where the caller names what isn't there.

A step is one system call, because a daemon can die between any two.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Folder:
    """One folder as it was read: files without their final newline, links by their target.

    Only what matters has to be read. Targets of links are paths from the root of the tree,
    like `core/user_747/trilun-v1`.
    """

    folders: dict[str, Folder] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    links: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Folder | None:
        """The folder at `path` below this one; at an empty path itself."""
        at: Folder | None = self
        for name in path.split("/") if path else ():
            if at is None:
                return None
            at = at.folders.get(name)
        return at

    def copied(self) -> Folder:
        """The same tree, to be changed on its own."""
        folders = {name: each.copied() for name, each in self.folders.items()}
        return Folder(folders, dict(self.files), dict(self.links))

    def all_links(self, path: str = "") -> Iterator[tuple[str, str]]:
        """Path and target of every link in the tree."""
        for name, target in self.links.items():
            yield f"{path}{name}", target
        for name, each in self.folders.items():
            yield from each.all_links(f"{path}{name}/")


class Kind(enum.Enum):
    """What a step does."""

    MAKE = "make"
    """mkdir; a folder that is there already is fine."""
    REMOVE = "remove"
    """rmdir; a folder that is gone already is fine."""
    WRITE = "write"
    LINK = "link"
    """symlink at `path` to `value`."""
    UNLINK = "unlink"


@dataclass(frozen=True, slots=True)
class Operation:
    """One step."""

    kind: Kind
    path: str
    value: str = ""
    secret: bool = False
    """The value must not be shown."""

    def __repr__(self) -> str:
        value = "***" if self.secret else self.value
        return f"{self.kind.value} {self.path} {value}".rstrip()


def apply(root: Folder, operation: Operation) -> None:
    """Change the picture as the kernel would change the tree, without its checks."""
    parent_path, _, name = operation.path.rpartition("/")
    parent = root.find(parent_path)
    if parent is None:
        raise KeyError(operation.path)
    kind = operation.kind
    if kind is Kind.MAKE:
        parent.folders.setdefault(name, Folder())
    elif kind is Kind.REMOVE:
        parent.folders.pop(name, None)
    elif kind is Kind.WRITE:
        parent.files[name] = operation.value
    elif kind is Kind.LINK:
        parent.links[name] = operation.value
    else:
        del parent.links[name]
