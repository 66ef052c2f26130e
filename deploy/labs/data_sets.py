"""A data set in the lab: volumes, pairs, a file system made by host 1, agents that use it.

Owns the steps that an operator takes once. Commands go by MQTT from the machine; the file system is
made over the kernel's own initiator. Fails with LabError.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from deploy.labs import initiator
from deploy.labs.lab import Lab
from deploy.labs.problem import LabError
from deploy.labs.roles import DataSet, unit_of

MAKE = {"ext4": "mkfs.ext4 -q -F -E lazy_itable_init=0", "xfs": "mkfs.xfs -q -f"}
IN_PAIR_WITHIN_S = 120.0
MOUNTED_WITHIN_S = 60.0
POLL_S = 0.2


def make(lab: Lab, *wanted: DataSet) -> None:
    """Make them, in PAIR and mounted; does nothing about those that are there already."""
    missing = [
        data
        for data in wanted
        if not lab.trilun("pair", "show", data.local, check=False).get("pair")
    ]
    if not missing:
        return
    host1 = lab.host("host1")
    host1.run("systemctl", "stop", unit_of("host1"), timeout_s=60)
    for data in missing:
        _create(lab, data)
    host1.run("systemctl", "start", unit_of("host1"), timeout_s=60)
    for data in missing:
        wait_mounted(lab, data)


def _create(lab: Lab, data: DataSet) -> None:
    host1 = lab.host("host1")
    first, second = f"primary/{data.first}", f"secondary/{data.second}"
    thirds = [f"secondary/{third}" for third, _ in data.backups]
    for volume in (first, second, *thirds):
        lab.trilun("volume", "create", volume, str(data.size_bytes))
    disk = initiator.attach(lab, host1, first)
    host1.run(*MAKE[data.filesystem].split(), disk, timeout_s=120)
    initiator.detach(lab, host1, first)
    lab.trilun("pair", "create", data.remote, first, second)
    wait_pair(lab, data.remote)
    for third, (_, local) in zip(thirds, data.backups, strict=True):
        lab.trilun("pair", "create", local, second, third)
    for _, local in data.backups:
        wait_pair(lab, local)


def wait_pair(lab: Lab, pair: str, within_s: float = IN_PAIR_WITHIN_S) -> None:
    """Wait for PAIR; LabError says what it was in instead."""
    lab.trilun("pair", "wait", pair, "PAIR", "--timeout", str(within_s))


def wait_mounted(lab: Lab, data: DataSet) -> None:
    """Wait until host 1 has the file system."""
    wait_for(lambda: is_mounted(lab, data), f"host1 to mount {data.mountpoint}", MOUNTED_WITHIN_S)


def is_mounted(lab: Lab, data: DataSet) -> bool:
    """Whether host 1 has the file system."""
    ran = lab.host("host1").run("mountpoint", "-q", data.mountpoint, check=False)
    return ran.code == 0


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait for a condition; LabError when it does not come."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise LabError(f"waited {within_s:.0f} s for {what}")
        time.sleep(POLL_S)
