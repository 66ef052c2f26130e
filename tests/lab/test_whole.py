"""A whole volume comes back between real kernels: third to second to first, by bitmaps alone."""

from __future__ import annotations

import pytest

from deploy.labs import data_sets
from deploy.labs.host import Host
from deploy.labs.lab import Lab
from deploy.labs.roles import DataSet
from tests.lab import images, settling

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BEFORE = """
mkdir -p "$0/whole"; cd "$0/whole"
for i in 1 2 3 4; do dd if=/dev/urandom of=file-$i bs=1M count=4 status=none; done
sync
"""
DISASTER = """
cd "$0/whole"
dd if=/dev/zero of=file-1 bs=1M count=4 conv=notrunc status=none
rm file-2
dd if=/dev/urandom of=file-5 bs=1M count=4 status=none
sync
"""
DATA_BYTES = 4 * (4 << 20)
OVERHEAD_BYTES = 4 << 20
"""A journal, and the metadata of a file system that was mounted and unmounted."""


def sums(host: Host, data: DataSet) -> str:
    """What the files hold."""
    return host.shell(f"cd {data.mountpoint}/whole; sha256sum *").text


def test_a_whole_volume_comes_back(lab: Lab, ext4: DataSet) -> None:
    host1 = lab.host("host1")
    settling.make_whole(lab, ext4)
    data_sets.wait_mounted(lab, ext4)
    host1.run("sh", "-euc", BEFORE, ext4.mountpoint)
    good = sums(host1, ext4)
    lab.trilun("backup", ext4.name, "--label", "before")
    host1.run("sh", "-euc", DISASTER, ext4.mountpoint)
    assert sums(host1, ext4) != good

    plan = lab.trilun("restore", "--whole", "--no-undo", ext4.name, "--dry-run")["plan"]
    assert plan["whole"]
    assert plan["overwritten_bytes"] > 0
    job = lab.trilun("restore", "--whole", "--no-undo", ext4.name)
    data_sets.wait_mounted(lab, ext4)
    assert sums(host1, ext4) == good
    receipt = job["receipt"]
    assert receipt["wire_bytes"] <= receipt["union_bytes"] * 1.02 + (1 << 16)
    assert receipt["union_bytes"] < DATA_BYTES + OVERHEAD_BYTES

    # Host 1 writes when it mounts; what the first volume was before is what the second was.
    backup = settling.pair(lab, f"secondary/{ext4.local}")
    assert (backup["state"], backup["split_label"]) == ("PSUS", "before")
    with settling.unmounted(lab, ext4):
        images.assert_equal(lab, *images.volumes_of(ext4))
        images.check_file_system(lab, f"primary/{ext4.first}", "ext4")
