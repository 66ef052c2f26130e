"""Copies of one instant, taken while hosts write: a group's split, and a quick backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.labs import data_sets, initiator
from deploy.labs.host import Host
from deploy.labs.lab import Lab
from deploy.labs.roles import DataSet
from tests.lab import images, settling

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SIZE_BYTES = 16 << 20
PAIRS = {
    "left": ("primary/left-first", "secondary/left-second"),
    "right": ("primary/right-first", "secondary/right-second"),
}
GROUP = "both"
SPLITS = 2
IN_ORDER = """
import mmap, os, sys
disks = [os.open(path, os.O_WRONLY | os.O_DIRECT) for path in sys.argv[1:]]
block = mmap.mmap(-1, 4096)
number = 0
while True:
    number += 1
    block[:8] = number.to_bytes(8, "little")
    for disk in disks:
        os.pwrite(disk, block, 0)
"""
"""A number on the left disk is answered before the right one is given it."""
SPOIL = 'echo spoiled >"$0"; sync'
BIG = 'dd if=/dev/urandom of="$0" bs=1M count=48 conv=fsync status=none; sha256sum <"$0"'


@contextmanager
def written_in_order(host: Host, *disks: str) -> Iterator[None]:
    """While numbers are written to both."""
    call = host.channel.start("python3", "-IS", "-c", IN_ORDER, *disks)
    try:
        yield
        assert call.step(0) is None, call.stderr.decode()
    finally:
        call.hang_up()


def number_on(lab: Lab, volume: str) -> int:
    """The number in a volume's first block, as it lies on its controller."""
    node, path = images.image(lab, volume)
    ran = lab.host(node).run("head", "-c", "8", path)
    return int.from_bytes(ran.stdout, "little")


def test_a_group_is_split_at_one_instant_between_two_writes(lab: Lab) -> None:
    host1 = lab.host("host1")
    settling.wait_online(lab, *settling.everybody(lab))
    disks = []
    for name, volumes in PAIRS.items():
        for volume in volumes:
            lab.trilun("volume", "create", volume, str(SIZE_BYTES))
        lab.trilun("pair", "create", name, *volumes)
        disks.append(initiator.attach(lab, host1, volumes[0]))
    lab.trilun("group", "create", GROUP, *PAIRS)
    left, right = (second for _, second in PAIRS.values())
    before = 0
    with written_in_order(host1, *disks):
        for _ in range(SPLITS):
            lab.trilun("group", "wait", GROUP, "PAIR", "--timeout", "120")
            data_sets.wait_for(lambda: number_on(lab, right) > before, "numbers to arrive")  # noqa: B023
            lab.trilun("group", "split", GROUP)
            numbers = number_on(lab, left), number_on(lab, right)
            assert numbers[0] - numbers[1] in (0, 1)
            assert numbers[1] > before
            assert (number_on(lab, left), number_on(lab, right)) == numbers
            before = numbers[0]
            lab.trilun("group", "resync", GROUP)
    lab.trilun("group", "wait", GROUP, "PAIR", "--timeout", "120")
    lab.trilun("group", "delete", GROUP)
    for name, volumes in PAIRS.items():
        initiator.detach(lab, host1, volumes[0])
        images.assert_equal(lab, *volumes)
        lab.trilun("pair", "delete", name)
        for volume in volumes:
            lab.trilun("volume", "delete", volume)


def test_a_quick_backup_is_of_its_instant(lab: Lab, ext4: DataSet) -> None:
    """It does not wait for what differs; what is spoiled right after it comes back as it was."""
    host1, path = lab.host("host1"), f"{ext4.mountpoint}/quick"
    settling.make_whole(lab, ext4)
    data_sets.wait_mounted(lab, ext4)
    lab.trilun("pair", "split", ext4.local)
    good = host1.run("sh", "-euc", BIG, path).text
    lab.trilun("backup", "take", ext4.name, "--quick", "--label", "quick")
    host1.run("sh", "-euc", SPOIL, path)
    settling.wait_state(lab, f"secondary/{ext4.local}", "PSUS")
    assert settling.pair(lab, f"secondary/{ext4.local}")["split_label"] == "quick"
    lab.trilun("restore", "--data-set", ext4.name, "--conflict", "overwrite", path)
    data_sets.wait_mounted(lab, ext4)
    assert host1.run("sh", "-euc", 'sha256sum <"$0"', path).text == good
