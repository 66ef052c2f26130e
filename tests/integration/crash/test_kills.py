"""kill -9 of real controllers under verified load: nothing acknowledged is lost.

Hosts speak iSCSI with libiscsi. What the page cache holds outlives a process, so the promise is
stricter than a flush's: every acknowledged write is there. TRILUN_KILLS says how many processes
die (10; the full run sets 150), a third of them in mode async; TRILUN_SEED which campaign it is.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.api import messages as m
from tests.integration.crash.campaign import Campaign
from tests.integration.crash.libiscsi import load_library
from tests.integration.crash.machines import two_machines

KILLS = int(os.environ.get("TRILUN_KILLS", "10"))
SEED = int(os.environ.get("TRILUN_SEED", "0"))


SHARES = {m.Mode.SYNC: KILLS - KILLS // 3, m.Mode.ASYNC: KILLS // 3}


@pytest.mark.timeout(300 + 4 * KILLS)
@pytest.mark.parametrize("mode", list(m.Mode))
async def test_nothing_acknowledged_is_lost_by_kill_9(mode: m.Mode, tmp_path: Path) -> None:
    library = load_library()
    async with two_machines(tmp_path, mode) as machines:
        campaign = Campaign(machines, library, SEED, mode)
        try:
            await campaign.run(SHARES[mode])
        except BaseException:
            print("\n".join(campaign.log[-60:]))
            print(f"again: TRILUN_SEED={SEED} TRILUN_KILLS={KILLS}, mode {mode}")
            raise
        finally:
            campaign.stop()
        print(f"{campaign.kills} kills in mode {mode}; {campaign.host1.counts}")
        for moment, kills in sorted(campaign.moments.items()):
            print(f"  {kills:4} {moment}")
