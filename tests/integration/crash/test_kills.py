"""kill -9 of real controllers under verified load: nothing acknowledged is lost.

Hosts speak iSCSI with libiscsi. What the page cache holds outlives a process, so the promise is
stricter than a flush's: every acknowledged write is there. TRILUN_KILLS says how many processes
die (10; the full run sets 150), TRILUN_SEED which campaign it is.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.crash.campaign import Campaign
from tests.integration.crash.libiscsi import load_library
from tests.integration.crash.machines import two_machines

KILLS = int(os.environ.get("TRILUN_KILLS", "10"))
SEED = int(os.environ.get("TRILUN_SEED", "0"))


@pytest.mark.timeout(120 + 4 * KILLS)
async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    library = load_library()
    async with two_machines(tmp_path) as machines:
        campaign = Campaign(machines, library, SEED)
        try:
            await campaign.run(KILLS)
        except BaseException:
            print("\n".join(campaign.log[-60:]))
            print(f"again: TRILUN_SEED={SEED} TRILUN_KILLS={KILLS}")
            raise
        finally:
            campaign.stop()
        print(f"{campaign.kills} kills: {dict(campaign.moments)}; {campaign.host1.counts}")
