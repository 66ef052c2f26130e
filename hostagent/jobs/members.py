"""Which data sets of this host a group of remote pairs stands for.

Pure. Owns the rule that a backup of a group is one of whole data sets of one host 1: only that
host can let all of them stand still at once. A restore of a group is one job of one host 2.
Refuses with RejectedError, naming what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.config import DataSetConfig
from hostagent.errors import listed

NEXT_STEPS = {
    "host1": "one host 1 freezes all of a group: make a group of the pairs of its data sets",
    "host2": "one host 2 restores all of a group: add the data sets to its configuration, or "
    "restore each on its own",
}


def members_of(
    group: m.GroupInfo,
    data_sets: Sequence[DataSetConfig],
    host: str,
    part: Literal["host1", "host2"] = "host1",
) -> list[DataSetConfig]:
    """The data set behind each pair of the group, in the group's order."""
    known = {
        entry.remote_pair: entry
        for entry in data_sets
        if entry.part == part and entry.primary == group.node
    }
    missing = [pair for pair in group.pairs if pair not in known]
    if missing:
        raise RejectedError(
            Code.WRONG_STATE,
            f"group '{group.name}' has pairs that are of no data set of '{host}': "
            f"{listed(missing)}",
            NEXT_STEPS[part],
        )
    members = [known[pair] for pair in group.pairs]
    secondaries = sorted({entry.secondary for entry in members})
    if len(secondaries) > 1:
        raise RejectedError(
            Code.WRONG_STATE,
            f"the data sets of group '{group.name}' name several secondaries: "
            f"{', '.join(secondaries)}",
            f"correct the configuration of '{host}': the pairs of a group have one peer",
        )
    return members
