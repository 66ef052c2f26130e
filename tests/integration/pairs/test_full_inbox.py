"""An owner that is behind refuses commands; what has happened and what it is told it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.pair import messages as msg
from controller.pair.asked import Asked
from controller.pair.owner import INBOX
from controller.pair.table import Command
from tests.rig import chain, two_nodes

S = m.PairState


async def test_commands_are_refused_and_a_split_goes_on(tmp_path: Path) -> None:
    """What has happened already is dealt with, however much there is of it."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        owner = a.node.pairs.get("remote")
        for _ in range(INBOX):
            owner.post("persist")
        with pytest.raises(RejectedError, match="busy") as refused:
            await owner.ask(Asked(Command.SPLIT))
        assert refused.value.code is Code.WRONG_STATE
        await owner.begin_split("kept")
        assert (a.pair("remote").state, b.pair("remote").state) == (S.PSUS, S.SSUS)
        assert b.pair("remote").split_label == "kept"


async def test_the_other_sides_messages_are_taken(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        owner = b.node.pairs.get("remote")
        for _ in range(INBOX):
            owner.post("persist")
        owner.message(msg.Prepare(dirty_bytes=4096, current="f" * 32))
        await owner.caught_up()
        assert b.pair("remote").state is S.COPY
