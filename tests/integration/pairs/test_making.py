"""A pair whose making fails leaves nothing behind that can't answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.pair.side import PairSide
from controller.pairs import Pairs
from controller.volume.bitmap_file import BitmapFile
from controller.volume.store import StoreDone, StoreError, StoreFault
from tests.integration.pairs.states import refused, volumes
from tests.rig import Running, chain, remote_pair, two_nodes

S = m.PairState
ANSWER_WITHIN_S = 20.0


async def nothing_is_left(a: Running, b: Running) -> None:
    """Both answer as if nobody had asked for the pair, and it can be made."""
    async with asyncio.timeout(ANSWER_WITHIN_S):
        for node in (a, b):
            error = await refused(node, "pair.split", m.PairSplit(name="remote"))
            assert error.code is Code.NOT_FOUND
    assert not b.node.volumes.get("second").volume.trackers
    assert b.node.volumes.get("second").record.consistent
    assert list((b.directory / "meta").glob("*.bitmap")) == []
    await a.do("pair.create", remote_pair())
    for node in (a, b):
        await node.until("remote", S.PAIR)


async def test_the_guard_can_not_keep_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def guard(_pairs: Pairs, _side: PairSide) -> None:
        raise RejectedError(Code.NO_PEER, "the third has failed")

    async with two_nodes(tmp_path) as (a, b):
        await volumes(a, b)
        with monkeypatch.context() as patched:
            patched.setattr(Pairs, "guard", guard)
            error = await refused(a, "pair.create", remote_pair())
            assert "the third has failed" in error.message
        await nothing_is_left(a, b)


async def test_the_bitmap_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_file: BitmapFile, done: StoreDone) -> None:
        done(StoreError(StoreFault.NO_SPACE, "full"))

    async with two_nodes(tmp_path) as (a, b):
        await volumes(a, b)
        with monkeypatch.context() as patched:
            patched.setattr(BitmapFile, "save", save)
            await refused(a, "pair.create", remote_pair())
        await nothing_is_left(a, b)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_side_that_is_forgotten_twice_at_once_goes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Its making is taken back while a command dissolves it (seed 2816)."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        pairs, catalogue = b.node.pairs, b.node.catalogue
        side = pairs.get("local").side
        commit, failing = catalogue.commit, fails

        async def commit_or_not() -> None:
            nonlocal failing
            failed, failing = failing, False
            await commit()
            if failed:
                raise StoreError(StoreFault.NO_SPACE, "full")

        monkeypatch.setattr(catalogue, "commit", commit_or_not)
        both = (pairs.forget(side), pairs.forget(side))
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        assert [isinstance(each, StoreError) for each in outcomes] == [fails, False]
        assert side not in side.volume.trackers
        assert not any(each is side.record for each in catalogue.contents.pairs)
        await pairs.forget(pairs.get("local").side)
        assert pairs.find("local") is None
