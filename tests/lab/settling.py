"""From trouble back to peace: what has to be true, without help, when a fault has passed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy.labs import data_sets
from deploy.labs.lab import Lab
from deploy.labs.roles import CONTROLLERS, DataSet, unit_of

PEACE_WITHIN_S = 180.0


def pair(lab: Lab, name: str) -> dict[str, Any]:
    """What the controllers say of a pair; empty while none answers."""
    answer = lab.trilun("pair", "show", name, check=False)
    return dict(answer.get("pair", {}))


def state(lab: Lab, name: str) -> str:
    """The pair's state, in capitals; empty while nobody answers."""
    return str(pair(lab, name).get("state", ""))


def wait_state(lab: Lab, name: str, *states: str, within_s: float = PEACE_WITHIN_S) -> None:
    """Wait until a pair is in one of the states."""
    what = f"{name} to be in {' or '.join(states)}"
    data_sets.wait_for(lambda: state(lab, name) in states, what, within_s)


def wait_online(lab: Lab, *nodes: str, within_s: float = PEACE_WITHIN_S) -> None:
    """Wait until nodes are seen through the broker."""

    def online() -> bool:
        status = lab.trilun("status", check=False)
        seen = {entry["node"] for entry in status.get("nodes", []) if entry.get("online")}
        return seen >= set(nodes)

    data_sets.wait_for(online, f"{', '.join(nodes)} to be online", within_s)


def everybody(lab: Lab) -> list[str]:
    """All nodes of the lab that are started at boot."""
    return [name for name in lab.names if name in CONTROLLERS or name.startswith("host")]


def mount_anew(lab: Lab, data: DataSet) -> None:
    """What host 1 has to do behind a power loss of the primary: it can't write until it has logged
    in anew, and the journal is replayed when it mounts anew."""
    lab.host("host1").run("systemctl", "restart", unit_of("host1"), timeout_s=120)
    data_sets.wait_mounted(lab, data)


@contextmanager
def unmounted(lab: Lab, data: DataSet) -> Iterator[None]:
    """While host 1 is away from its data set, and both sides are equal."""
    host1 = lab.host("host1")
    host1.run("systemctl", "stop", unit_of("host1"), timeout_s=60)
    try:
        wait_state(lab, data.remote, "PAIR")
        yield
    finally:
        host1.run("systemctl", "start", unit_of("host1"), timeout_s=60)
        data_sets.wait_mounted(lab, data)


def make_whole(lab: Lab, data: DataSet) -> None:
    """Both pairs of a data set in PAIR. The remote one gets there by itself; the local one was kept
    as the consistent copy while it did, and is joined again by command."""
    wait_state(lab, data.remote, "PAIR")
    if state(lab, data.local) != "PAIR":
        lab.trilun("pair", "resync", data.local)
        wait_state(lab, data.local, "PAIR")
