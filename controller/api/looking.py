"""The contract of looking into a backup: `job.look`, `look.*`, and `fs.list`, `fs.digest`.

Owns the shape only. Names and paths in here are text in which '%' and every byte that isn't
UTF-8 is written '%XX', so that each name a file system has can be asked for.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.base import Bytes, Info, Name, Params

MAX_LISTED = 1000
"""Entries of one answer."""
MAX_PIECE_BYTES = 256 << 10
"""Of a file's content in one answer."""
MAX_DIGEST_BYTES = 64 << 20
"""Of a file's content behind one digest."""
MAX_CAT_BYTES = 64 << 20
"""What `trilun cat` reads unless it is told otherwise."""

Path = Annotated[str, Field(max_length=3 * 4096)]


class FsEntry(Info):
    """One file: its inode without its content."""

    name: str
    mode: int
    uid: int
    gid: int
    size_bytes: Bytes
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int = 0
    """Number of a device file."""
    links: int
    link_to: str = ""
    xattrs: dict[str, str] = {}
    """Name to SHA-256 of the value."""


class FsEntries(Info):
    """Answer of `fs.list` and `look.list`: entries in the order of their names."""

    entries: list[FsEntry]
    more: bool
    """There are more behind the last one."""
    alone: bool = False
    """The path itself, which is no directory."""


class FsList(Params):
    """Look at a directory of the first volume as host 1 has it mounted."""

    data_set: Name
    directory: Path = ""
    names: Annotated[list[Path], Field(max_length=MAX_LISTED)] = []
    """Only these, as far as they are there; empty: all of them."""
    after: str = ""
    """Only names behind this one."""


class FsDigest(Params):
    """Digest a part of one file of the first volume."""

    data_set: Name
    path: Path
    offset_bytes: Bytes
    length_bytes: Annotated[int, Field(ge=0, le=MAX_DIGEST_BYTES)]


class DigestInfo(Info):
    """SHA-256 of what was read, which is less than asked for at the file's end."""

    length_bytes: Bytes
    digest: str


class LookStart(Params):
    """Open a throw-away view of a backup to look at. Closed by `look.close`, or when idle."""

    data_set: Name
    from_backup: Annotated[str, Field(max_length=128)] = ""
    """Label or local pair of the backup; empty: the newest."""


class LookList(Params):
    """List a directory of the backup, or one file."""

    job: Name
    path: Path = ""
    after: str = ""


class LookRead(Params):
    """A piece of a file's content. Ask for pieces in order: the last one has the digest."""

    job: Name
    path: Path
    offset_bytes: Bytes = 0
    max_bytes: Bytes = MAX_CAT_BYTES
    """A larger file is refused."""


class LookPiece(Info):
    """A piece of a file."""

    data: str
    """Base64."""
    offset_bytes: Bytes
    size_bytes: Bytes
    """Of the whole file."""
    digest: str = ""
    """With the last piece: SHA-256 of the whole file as the agent has read it."""


class LookDiff(Params):
    """Compare one directory of the backup with the first volume as it is now."""

    job: Name
    path: Path = ""
    after: str = ""


class Difference(Info):
    """One file that isn't now what it was."""

    path: str
    what: Literal["added", "removed", "changed", "metadata"]
    detail: str = ""
    """Which metadata differ, or what it is now."""
    kind: Literal["file", "directory", "symlink", "other"]
    size_bytes: Bytes = 0
    """Now; of a removed file, then."""


class Differences(Info):
    """Answer of `look.diff`: one directory, up to `after` where there is more."""

    differences: list[Difference]
    directories: list[str]
    """Those that are there on both sides, to be compared next."""
    compared_count: int
    read_bytes: Bytes
    """Content that had to be read, of each side."""
    after: str = ""
    """Where to go on in this directory; empty: it is through."""
