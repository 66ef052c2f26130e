"""Whether a file is now what it was in the backup, told by two entries of it.

Pure. Owns the rule: one inode whose change time is the same was not touched since, whatever it
holds; else metadata decide, and where those say the same, the content has to be read. A change
time is set by the kernel at each change of an inode and can't be set by programs.
"""

from __future__ import annotations

from controller.api.looking import FsEntry
from hostagent.copying.metadata import Kind
from hostagent.looking.listing import metadata_of

_AS: dict[Kind, str] = {
    "file": "a file now",
    "directory": "a directory now",
    "symlink": "a link now",
    "other": "a special file now",
}


def kind_of(entry: FsEntry) -> Kind:
    """What sort of file an entry is."""
    return metadata_of(entry).kind


def other_kind(backup: FsEntry, now: FsEntry) -> str:
    """What it is now, where that is something else; empty otherwise."""
    return "" if kind_of(backup) == kind_of(now) else _AS[kind_of(now)]


def metadata_differences(backup: FsEntry, now: FsEntry) -> list[str]:
    """What differs besides content, as words; of two files of one kind."""
    found = metadata_of(backup).differences(metadata_of(now))
    if backup.link_to != now.link_to:
        found.append("where the link points")
    return found


def untouched(backup: FsEntry, now: FsEntry) -> bool:
    """Whether nothing at all was changed: then the content needs no look."""
    same = (backup.inode, backup.ctime_ns, backup.size_bytes, backup.mtime_ns)
    return same == (now.inode, now.ctime_ns, now.size_bytes, now.mtime_ns)
