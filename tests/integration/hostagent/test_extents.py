"""Where files lie on real file systems, and which of them can't be told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.api.changed import MAX_EXTENTS, FileExtents
from hostagent.looking.extents import extents_of
from tests.filesystems import mounted, run

pytestmark = [pytest.mark.root, pytest.mark.tools]


def look(root: Path, name: str) -> FileExtents:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return extents_of(fd, name)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_volume_has_the_content_where_it_is_told(kind: str, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    with mounted(tmp_path, kind) as (image, root):
        with (root / "f").open("wb") as file:
            file.write(data[: 1 << 20])
            file.seek(8 << 20)
            os.posix_fallocate(file.fileno(), 4 << 20, 1 << 20)
            file.write(data[1 << 20 :])
        found = look(root, "f")
        assert found.known
        assert sum(each.length_bytes for each in found.extents) == len(data)
        run("sync", "-f", str(root))
        content = b""
        with image.open("rb") as volume:
            for each in found.extents:
                volume.seek(each.place_bytes)
                content += volume.read(each.length_bytes)
        assert content == data
        behind = [each.offset_bytes for each in found.extents if each.offset_bytes >= 1 << 20]
        assert min(behind) == 8 << 20, "what is set aside and not written reads as zeros"


@pytest.mark.parametrize(
    ("kind", "options", "tune"),
    [
        ("ext4", "loop,data=journal", ()),
        ("ext4", "loop", ("tune2fs", "-o", "journal_data")),
        ("btrfs", "loop", ()),
    ],
)
def test_where_data_goes_elsewhere_first_nobody_knows(
    kind: str, options: str, tune: tuple[str, ...], tmp_path: Path
) -> None:
    with mounted(tmp_path, kind, options=options, tune=tune) as (_, root):
        (root / "f").write_bytes(b"x" * (1 << 20))
        assert not look(root, "f").known


def test_a_file_whose_data_is_journalled_is_not_told(tmp_path: Path) -> None:
    script = tmp_path / "script"
    # The flag of `chattr +j`, beside that of extents (linux/fs.h), without the right to set it.
    script.write_text("write /dev/null f\nset_inode_field f flags 0x84000\n")
    with mounted(tmp_path, "ext4", tune=("debugfs", "-w", "-f", str(script))) as (_, root):
        for name in ("f", "g"):
            (root / name).write_bytes(b"x" * (1 << 20))
        assert not look(root, "f").known
        assert look(root, "g").known


def test_a_file_in_too_many_pieces_is_not_told(tmp_path: Path) -> None:
    with mounted(tmp_path, "xfs") as (_, root):
        with (root / "f").open("wb") as file:
            for number in range(MAX_EXTENTS + 1):
                file.seek(number * 8192)
                file.write(b"x" * 4096)
        assert not look(root, "f").known
