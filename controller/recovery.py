"""What a volume's log means to its pairs at a start: what was hot may differ (law L1).

Owns that step. Fails with StoreError.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from controller.api import messages as m
from controller.pair.owner import PairOwner
from controller.pair.record import OPEN_TO_HOSTS
from controller.shelved import Shelved
from controller.volume.store import finished

log = logging.getLogger(__name__)


async def recover(shelved: Shelved, owners: Sequence[PairOwner]) -> None:
    """Mark what was hot when a volume was not closed cleanly, durably."""
    hot = shelved.hot_at_start
    if not owners or (hot is not None and hot.clean):
        return
    for owner in owners:
        if owner.record.role is m.Role.S_VOL and owner.record.state not in OPEN_TO_HOSTS:
            # Some of the last writes may be missing: a split that is told late finds no
            # instant here (law L11).
            owner.record.settled = False
        if hot is None:
            owner.side.bitmap.set_all()
        else:
            for extent in hot.extents:
                owner.side.assume_dirty(extent * hot.extent_bytes, hot.extent_bytes)
    # The log's next commit names the hot extents of this run only (law L1).
    for owner in owners:
        await finished(owner.side.bitmap_file.save)
    if hot is not None and hot.extents:
        log.warning(
            "volume %s was not closed cleanly: %d hot extents are taken as dirty",
            shelved.record.name,
            len(hot.extents),
        )
