"""Which way a resync goes, in a command's terms: what --full may give up, and what it may not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import Direction, Fence, Mode, PairKind, PairState, Role
from controller.pair.choice import choose
from controller.pair.generations import Decision, How
from controller.pair.messages import Report
from controller.pair.record import PairRecord
from controller.pair.side import PairSide


def chosen(current: str, asked: Direction | None) -> Decision:
    """A resync with --full; the S-VOL's baseline, "s0", says nothing to the P-VOL."""
    record = PairRecord(
        id="1" * 32,
        name="remote",
        kind=PairKind.REMOTE,
        role=Role.P_VOL,
        volume="first",
        other_volume="second",
        peer="b",
        mode=Mode.SYNC,
        fence=Fence.NEVER,
        rate_limit_bytes_per_s=None,
        state=PairState.PSUE,
        goal="mirror",
        current="p1",
        baseline="p0",
    )
    state = SimpleNamespace(healthy=True, consistent=True)
    side = SimpleNamespace(
        record=record, volume=SimpleNamespace(name="first", state=state, trackers=[])
    )
    report = Report(
        state=PairState.SSUS,
        goal="split",
        current=current,
        baseline="s0",
        history=[],
        consistent=True,
        dirty_bytes=0,
        size_bytes=1 << 20,
        role=Role.S_VOL,
        swaps=0,
    )
    return choose(cast("PairSide", side), report, asked, full=True, resolve=False)


def test_a_full_copy_without_a_direction_goes_to_an_s_vol_that_nobody_wrote() -> None:
    decision = chosen("s0", None)
    assert (decision.how, decision.direction) == (How.FULL, Direction.FORWARD)


def test_a_full_copy_discards_what_hosts_wrote_to_the_s_vol_only_by_name() -> None:
    with pytest.raises(RejectedError) as refused:
        chosen("s1", None)
    assert refused.value.code is Code.DIRECTION_NEEDED
    assert "--reverse --full" in refused.value.next_step
    assert "--forward --full" in refused.value.next_step
    for direction in Direction:
        decision = chosen("s1", direction)
        assert (decision.how, decision.direction) == (How.FULL, direction)
