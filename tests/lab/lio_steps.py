"""Runs on a lab host: a daemon that dies between any two steps, on the kernel's own configfs.

For each number of steps, up and down: take that many, forget everything, read the tree again, and
get to the goal from there. Prints one line, `deaths=N`.
"""

from __future__ import annotations

from targets.lio.configfs import Folder
from targets.lio.plan import plan
from targets.lio.tree import CONFIGFS_TARGET, carry_out, read_tree
from targets.lio.wanted import (
    IQN_PREFIX,
    Acl,
    Backstore,
    Chap,
    Ownership,
    Portal,
    PortalGroup,
    Target,
    Wanted,
)

OWNER = Ownership(f"{IQN_PREFIX}steps.", "trilun-steps@")
ATTRIBUTES = {"cmd_time_out": "40", "qfull_time_out": "10"}
NOTHING = Wanted(owner=OWNER)


def wanted() -> Wanted:
    """Two volumes, one open behind CHAP, one with an ACL."""
    backstores = tuple(
        Backstore(f"trilun-steps@{n}", f"trilun/{n}", 1 << 20, f"S{n}", attributes=ATTRIBUTES)
        for n in (1, 2)
    )
    portals = (Portal("127.0.0.1", 3270), Portal("127.0.0.1", 3271))
    chap = Chap("user", "secret-of-host", "target", "secret-of-target")
    acl = Acl("iqn.1993-08.org.debian:01:host1", {0: 0}, frozenset({0}), chap)
    groups = (
        PortalGroup({0: backstores[0].name}, portals, chap=chap),
        PortalGroup({0: backstores[1].name}, portals, acls=(acl,)),
    )
    targets = tuple(Target(f"{IQN_PREFIX}steps.v{n}", (group,)) for n, group in enumerate(groups))
    return Wanted(backstores, targets, OWNER)


def tree() -> Folder:
    return read_tree(CONFIGFS_TARGET, OWNER, tuple(ATTRIBUTES))


def get_to(goal: Wanted, steps: int | None = None) -> int:
    """Carry a plan out, or its beginning; how many steps it has."""
    made = plan(goal, tree())
    assert not made.obstacles
    for operation in made.operations[:steps]:
        carry_out(CONFIGFS_TARGET, operation)
    return len(made.operations)


def die_everywhere(goal: Wanted, back: Wanted) -> int:
    deaths = 0
    while True:
        get_to(back)
        total = get_to(goal, deaths)
        if deaths >= total:
            return deaths
        get_to(goal)
        assert plan(goal, tree()).operations == (), deaths
        deaths += 1


def main() -> None:
    up = die_everywhere(wanted(), NOTHING)
    down = die_everywhere(NOTHING, wanted())
    get_to(NOTHING)
    print(f"deaths={up + down}")


if __name__ == "__main__":
    main()
