"""What a restore reads of the backup: the named files, and what it takes to find them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from controller.api.restores import Conflict
from hostagent.config import DataSetConfig
from hostagent.copying.content import Work
from hostagent.copying.patterns import Asked
from hostagent.copying.placing import Placing
from hostagent.filesystem.mounts import find_mount
from hostagent.filesystem.volumes import HostVolumes
from hostagent.programs import Blocking
from hostagent.restore_host import RestoreMounts
from tests.integration.hostagent.conftest import Target, make_image

pytestmark = [pytest.mark.root, pytest.mark.tools]

MIB = 1 << 20
QUIET = Work(lambda _: None, lambda: False)
NAMED_BYTES = 4 * MIB
OTHER_BYTES = 32 * MIB
METADATA_BYTES = 2 * MIB


def fill(image: Path, runtime: Path) -> None:
    """Files that are named, in the midst of others that are eight times as large."""
    folder = runtime / "fill"
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        (folder / "d").mkdir()
        for number in range(4):
            (folder / f"d/other{number}").write_bytes(os.urandom(OTHER_BYTES // 4))
            (folder / f"d/named{number}").write_bytes(os.urandom(NAMED_BYTES // 4))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def read_bytes(mountpoint: Path) -> int:
    """What the kernel has read from the device of a mount, since it was made."""
    mount = find_mount(mountpoint)
    assert mount is not None
    counters = Path(f"/sys/block/{Path(mount.source).name}/stat").read_text().split()
    return int(counters[2]) * 512


@pytest.mark.parametrize("changed", [False, True])
async def test_only_the_named_files_are_read(
    target: Target, tmp_path: Path, runtime: Path, volumes: HostVolumes, changed: bool
) -> None:
    image = make_image(tmp_path / "third", "ext4")
    fill(image, runtime)
    second = tmp_path / "second"
    shutil.copyfile(image, second)
    data_set = DataSetConfig.model_validate({
        "name": "ds", "part": "host2", "filesystem": "ext4", "primary": "c1", "first": "v1",
        "remote_pair": "rp", "secondary": "c2", "second": "v2", "local_pair": "lp",
        "third": "v3", "host1": "h1", "host2": "h2", "mountpoint": "/srv/db",
    })  # fmt: skip
    blocking = Blocking(2)
    host = RestoreMounts(volumes, runtime, blocking)
    try:
        view = await host.mount("view-1", target.serve(image), data_set)
        volume = await host.mount("second-1", target.serve(second), data_set)
        if changed:
            for path in volume.glob("d/named*"):
                path.write_bytes(b"spoiled")
        before = read_bytes(view)
        found = await host.find(view, [Asked("d/named*")], QUIET)
        assert (found.file_bytes, len(found.names)) == (NAMED_BYTES, 4)
        compared = await host.compare(view, volume, found.names, Placing("j"), QUIET)
        assert compared.changed_count == (4 if changed else 0)
        placing = Placing("j", "", Conflict.KEEP_BOTH, frozenset(c.path for c in compared.changed))
        await host.copy(view, volume, found.names, placing, QUIET)
        verified = await host.verify(view, "second-1", volume, found.names, placing, QUIET)
        assert verified.read_bytes == NAMED_BYTES
        took = read_bytes(view) - before
        assert NAMED_BYTES <= took <= NAMED_BYTES + METADATA_BYTES, took
    finally:
        await host.unmount("second-1")
        await host.unmount("view-1")
        blocking.close()
