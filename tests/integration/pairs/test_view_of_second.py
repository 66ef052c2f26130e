"""A view of the second volume: only while its remote pair is split, and never beside a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from targets.lun import LunError
from tests.rig import Running, chain, read, two_nodes, write

BLOCK = 4096
SIZE = 64 * BLOCK
VIEW = m.ViewOpen(volume="second", view="v")


async def refused(node: Running, verb: str, params: m.Params) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        await node.do(verb, params)
    return caught.value


async def test_it_stands_still_while_the_view_is_open(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        await write(a.volume("first"), 0, b"t" * BLOCK)
        await a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        assert (await refused(b, "view.open", VIEW)).code is Code.WRONG_STATE
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), 0, b"s" * BLOCK)
        before = b.image("second")
        assert (await b.do("view.open", VIEW)).verdict is Verdict.ACCEPTED
        await write(b.volume("v"), 0, b"journal replay")
        assert (await read(b.volume("v"), 0, BLOCK)).startswith(b"journal replay" + b"s")
        with pytest.raises(LunError):
            await write(b.volume("second"), 0, b"x" * BLOCK)
        for name, direction in (
            ("remote", m.Direction.FORWARD),
            ("local", m.Direction.REVERSE),
        ):
            params = m.PairResync(name=name, direction=direction)
            error = await refused(a if name == "remote" else b, "pair.resync", params)
            assert "a view of 'second' is open" in error.message, name
        assert b.image("second") == before
        await b.do("view.close", m.Named(name="v"))
        await write(b.volume("second"), 0, b"y" * BLOCK)
        only_first = m.ViewOpen(volume="first", view="w")
        assert (await refused(a, "view.open", only_first)).code is Code.WRONG_STATE
