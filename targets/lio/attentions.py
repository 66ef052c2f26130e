"""A unit attention at every initiator of a LUN, by the kernel: the ring knows no initiators.

Owns the one way that disturbs nothing. A shell; blocking, for the worker's thread. Must not decide
when. Fails with OSError: a LUN that isn't there, a kernel that was told to leave ALUA to handlers.

When a LUN is put into a target port group, the kernel queues INQUIRY DATA HAS CHANGED (3F/03) at
each I_T nexus of that LUN (Linux, drivers/target/target_core_alua.c, 4.3 and later). Putting it
into the group that it is in does that, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from targets.lio.configfs import Kind, Operation
from targets.lio.tree import carry_out

_GROUP = "alua_tg_pt_gp"
_ALIAS = "TG Port Alias:"


def raise_at_all(root: Path, lun: str) -> None:
    """Have each initiator of a LUN (its folder, beneath `root`) hear 3F/03; raises OSError."""
    path = f"{lun}/{_GROUP}"
    lines = (root / path).read_text().splitlines()
    aliases = [line.removeprefix(_ALIAS).strip() for line in lines if line.startswith(_ALIAS)]
    # Without a group the kernel takes the default one for NULL.
    carry_out(root, Operation(Kind.WRITE, path, aliases[0] if aliases else "NULL"))


def grown(steps: Iterable[Operation], refused: Collection[str]) -> set[str]:
    """Names of the backstores that these steps have made larger."""
    found: set[str] = set()
    for step in steps:
        backstore, _, name = step.path.partition("/attrib/")
        if name == "dev_size" and backstore not in refused:
            found.add(backstore.rpartition("/")[2])
    return found
