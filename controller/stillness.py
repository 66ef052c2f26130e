"""Whether a volume's content stands still, so that a view of it can be opened (law L13).

Pure. Owns the rule over the pairs a volume belongs to: a split S-VOL stands still, also
while a quick split is being copied to it: its image is complete before it is. What it is a
P-VOL of besides doesn't matter, unless that pair copies back into it: hosts can't write to a
volume while a view of it is open. A volume that is nothing but a P-VOL belongs to its hosts.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.api.messages import PairState, Role
from controller.pair.record import PairRecord


def changing_pair(records: Sequence[PairRecord], *, early: bool) -> PairRecord | None:
    """The pair through which a volume may change now; None when it stands still.

    `early`: it is the S-VOL of a quick split whose image can be read.
    """
    follows = any(record.role is Role.S_VOL for record in records)
    for record in records:
        if record.role is Role.S_VOL:
            still = early or record.state is PairState.SSUS
        else:
            still = follows and record.state is not PairState.RCPY
        if not still:
            return record
    return None
