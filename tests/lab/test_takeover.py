"""A site is lost, the other one serves its host, and the way home copies what differs."""

from __future__ import annotations

import pytest

from deploy.labs import data_sets, initiator
from deploy.labs.host import Host
from deploy.labs.lab import Lab
from deploy.labs.roles import BROKER_HOST, DataSet
from tests.lab import images, settling

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

VOLUME_BYTES = 256 << 20
FIRST, SECOND = "primary/site-first", "secondary/site-second"
MOUNT = """
mkdir -p /run/site
mount "$0" /run/site
"""
WRITE = """
dd if=/dev/urandom of="/run/site/$0" bs=1M count=8 status=none
sync -f /run/site
"""
COPIED_AT_MOST_BYTES = 48 << 20
"""Two files of 8 MiB, a journal that was replayed, and what a crash had put in doubt."""


def use(lab: Lab, host: Host, volume: str, *, make: bool = False) -> None:
    """Attach and mount."""
    disk = initiator.attach(lab, host, volume)
    if make:
        host.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", disk, timeout_s=120)
    host.run("sh", "-euc", MOUNT, disk)


def leave(lab: Lab, host: Host, volume: str) -> None:
    """Unmount and log out."""
    host.run("umount", "/run/site")
    initiator.detach(lab, host, volume)


def sums(host: Host) -> str:
    """What the files hold."""
    return host.shell("cd /run/site; sha256sum file-*").text


def leads(lab: Lab, node: str) -> bool:
    """Whether a node's side is the P-VOL's, in PAIR."""
    side = settling.pair(lab, f"{node}/site")
    return (side.get("role"), side.get("state")) == ("P-VOL", "PAIR")


def test_the_second_site_serves_and_gives_back(lab: Lab, ext4: DataSet) -> None:
    settling.wait_online(lab, *settling.everybody(lab))
    # The broker is on host 1, and outlives the first site.
    primary, here, there = (lab.host(name) for name in ("primary", "host2", BROKER_HOST))
    for volume in (FIRST, SECOND):
        lab.trilun("volume", "create", volume, str(VOLUME_BYTES))
    lab.trilun("pair", "create", "site", FIRST, SECOND)
    data_sets.wait_pair(lab, "site")
    use(lab, here, FIRST, make=True)
    here.run("sh", "-euc", WRITE, "file-1")
    good = sums(here)

    primary.kill()
    here.kill()
    data_sets.wait_for(
        lambda: settling.pair(lab, "secondary/site").get("state") == "PSUE",
        "the secondary to miss the primary",
    )
    lab.trilun("pair", "takeover", "site")
    use(lab, there, SECOND)
    assert sums(there) == good
    there.run("sh", "-euc", WRITE, "file-2")

    primary.start()
    primary.wait_booted()
    data_sets.wait_for(
        lambda: "taken over" in settling.pair(lab, "primary/site").get("reason", ""),
        "the primary to hear of it",
        settling.PEACE_WITHIN_S,
    )
    lab.trilun("pair", "swap", "site", "--to", "secondary")
    lab.trilun("pair", "resync", "secondary/site")
    data_sets.wait_for(lambda: leads(lab, "secondary"), "the mirror to run the other way")
    assert settling.pair(lab, "secondary/site")["resync_payload_bytes"] < COPIED_AT_MOST_BYTES
    there.run("sh", "-euc", WRITE, "file-3")
    good = sums(there)
    leave(lab, there, SECOND)

    lab.trilun("pair", "swap", "site", "--to", "primary")
    data_sets.wait_for(lambda: leads(lab, "primary"), "the roles to be as they were")
    here.start()
    here.wait_booted()
    use(lab, here, FIRST)
    assert sums(here) == good
    leave(lab, here, FIRST)
    images.assert_equal(lab, FIRST, SECOND)
    images.check_file_system(lab, FIRST, "ext4")
    settling.mount_anew(lab, ext4)
