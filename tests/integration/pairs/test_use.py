"""Views, initiators and the guard: who keeps a copy away from a volume; and async mode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.pair.record import PairRecord
from controller.pair.side import PairSide
from controller.pairs import Pairs
from controller.volume.store import StoreDone
from targets.lun import Access, LunError, UnitAttention
from tests.integration.pairs.states import (
    BLOCK,
    REVERSE,
    SIZE,
    SLOW_BYTES_PER_S,
    in_sync,
    refused,
    shown,
)
from tests.rig import (
    LOCAL_PAIR,
    Running,
    chain,
    eventually,
    read,
    relink,
    remote_pair,
    two_nodes,
    unlinked,
    write,
)

S = m.PairState


class HeldCommit:
    """The commit in which a P-VOL's side notes that a copy back is whole waits for `release`."""

    def __init__(self, node: Running, record: PairRecord) -> None:
        self._ring = node.node.catalogue._ring
        self._record = record
        self._commit = self._ring.commit
        self._held: list[Callable[[], None]] = []
        self._ring.commit = self._hold  # type: ignore[method-assign]

    def _hold(self, payload: bytes, done: StoreDone) -> None:
        if self._record.state is S.RCPY and self._record.goal == "mirror":
            self._held.append(partial(self._commit, payload, done))
        else:
            self._commit(payload, done)

    @property
    def here(self) -> bool:
        return bool(self._held)

    def release(self) -> None:
        self._ring.commit = self._commit  # type: ignore[method-assign]
        self._held[0]()


# ---------------------------------------------------------------- views


async def test_a_copy_back_waits_for_views_since_a_mirror_is_its_end(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        await b.do("pair.split", m.PairSplit(name="local"))
        await a.do("pair.split", m.PairSplit(name="remote"))
        await b.until("remote", m.PairState.SSUS)
        await b.do("view.open", m.ViewOpen(volume="third", view="v"))
        back = m.PairResync(name="local", direction=m.Direction.REVERSE, force=True)
        error = await refused(b, "pair.resync", back)
        assert error.code is Code.IN_USE
        assert "a view of 'third' is open" in error.message
        assert b.pair("local").state is m.PairState.PSUS
        await b.do("view.close", m.Named(name="v"))
        await b.do("pair.resync", back)
        await b.until("local", m.PairState.PAIR)


async def test_marks_are_told_only_of_a_backup_that_is_looked_into(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        await a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        await b.do("view.open", m.ViewOpen(volume="third", view="v"))
        await write(a.volume("first"), 2 * BLOCK, b"n" * BLOCK)
        asked = m.PairChanged(name="local", view="v", ranges=[(0, SIZE)])
        told = (await b.do("pair.changed", asked)).result
        assert told == m.ChangedRanges(ranges=[(2 * BLOCK, BLOCK)])
        other = m.PairChanged(name="remote", view="v", ranges=[(0, SIZE)])
        assert (await refused(b, "pair.changed", other)).code is Code.WRONG_STATE
        # The pair may be another backup from here on, with marks of its own.
        await b.do("view.close", m.Named(name="v"))
        assert (await refused(b, "pair.changed", asked)).code is Code.NOT_FOUND


async def test_a_view_changes_nothing_and_keeps_copies_away(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        for volume in ("second", "third"):
            error = await refused(b, "view.open", m.ViewOpen(volume=volume, view="v"))
            assert error.code is Code.WRONG_STATE
            assert "split" in error.next_step
        await write(a.volume("first"), 0, b"t" * BLOCK)
        await a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        before = b.image("third")
        opened = m.ViewOpen(volume="third", view="v")
        assert (await b.do("view.open", opened)).verdict is Verdict.ACCEPTED
        assert (await b.do("view.open", opened)).verdict is Verdict.NO_OP
        view = b.volume("v")
        await write(view, 100, b"journal replay")
        assert (await read(view, 0, BLOCK))[98:116] == b"tt" + b"journal replay" + b"tt"
        assert b.image("third") == before
        with pytest.raises(LunError):
            await write(b.volume("third"), 0, b"x" * BLOCK)
        resync = m.PairResync(name="local")
        error = await refused(b, "pair.resync", resync)
        assert error.code is Code.IN_USE
        assert "a view of 'third' is open" in error.message
        for verb, params in (
            ("view.open", m.ViewOpen(volume="v", view="w")),
            ("view.close", m.Named(name="third")),
            ("pair.create", LOCAL_PAIR.model_copy(update={"name": "p", "p_volume": "v"})),
        ):
            assert (await refused(b, verb, params)).code in (Code.BAD_REQUEST, Code.WRONG_STATE)
        assert (await refused(b, "volume.delete", m.VolumeDelete(name="v"))).code is Code.IN_USE
        assert (
            await refused(b, "view.open", m.ViewOpen(volume="third", view="second"))
        ).code is Code.EXISTS
        b.logged_in("v", "iqn.host2")
        assert (await refused(b, "view.close", m.Named(name="v"))).code is Code.IN_USE
        b.logged_in("v")
        assert (await b.do("view.close", m.Named(name="v"))).verdict is Verdict.ACCEPTED
        assert (await b.do("view.close", m.Named(name="v"))).verdict is Verdict.NO_OP
        assert b.image("third") == before
        await b.do("pair.resync", resync)
        await b.until("local", S.PAIR)
        assert b.image("second") == b.image("third")


# ---------------------------------------------------------------- who else uses a volume


async def test_a_reverse_copy_waits_for_nobody_to_use_its_target(tmp_path: Path) -> None:
    """Law L12."""
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), 0, b"2" * BLOCK)
        a.logged_in("first", "iqn.host1")
        reverse = m.PairResync(name="remote", direction=REVERSE)
        for node in (a, b):
            error = await refused(node, "pair.resync", reverse)
            assert error.code is Code.IN_USE
            assert "1 initiator(s) are logged in to 'first'" in error.message
            assert "--force" in error.next_step
        assert (shown(a), shown(b)) == (S.PSUS, S.SSUS)
        await a.do("pair.resync", reverse.model_copy(update={"force": True}))
        await a.until("remote", S.PAIR)
        assert await read(a.volume("first"), 0, BLOCK) == b"2" * BLOCK
        iqn = a.node.volumes.get("first").iqn
        assert [each[0] for each in a.exporter.attentions] == [iqn]
        assert isinstance(a.exporter.attentions[0][1], UnitAttention)


async def test_hosts_are_told_of_new_data_also_where_the_link_goes_at_the_very_end(
    tmp_path: Path,
) -> None:
    """Law L12: the copy back is whole, and the link breaks while that is written down."""
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), 0, b"2" * BLOCK)
        first = a.volume("first")
        held = HeldCommit(a, a.node.pairs.get("remote").record)
        reverse = m.PairResync(name="remote", direction=REVERSE, force=True)
        command = asyncio.create_task(a.do("pair.resync", reverse))
        await eventually(lambda: held.here)
        channel = a.node.pairs.get("remote").side.channel
        assert channel is not None
        a.cut_link()
        await eventually(lambda: not channel.alive)
        await eventually(lambda: first.access is Access.READ_WRITE)
        told = list(a.exporter.attentions)
        held.release()
        assert told == [(a.node.volumes.get("first").iqn, UnitAttention.DATA_CHANGED)]
        await asyncio.wait([command])
        await a.until("remote", S.PAIR)
        assert len(a.exporter.attentions) == 1, "once is enough"


async def test_nobody_copies_from_a_volume_whose_copy_back_is_not_over(tmp_path: Path) -> None:
    """Law L7: it is whole, but its own mirror does not follow it again yet (seed 4831)."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE)
        await a.do("backup.mark", m.BackupMark(remote_pair="remote", local_pair="local"))
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), 0, b"2" * BLOCK)
        owners = b.node.pairs.of_volume("second")
        held = HeldCommit(b, next(o.record for o in owners if o.record.name == "local"))
        reverse = m.PairResync(name="local", direction=REVERSE, force=True)
        command = asyncio.create_task(b.do("pair.resync", reverse))
        await eventually(lambda: held.here)
        back = m.PairResync(name="remote", direction=REVERSE, force=True)
        try:
            assert (await refused(a, "pair.resync", back)).code is Code.NOT_CONSISTENT
        finally:
            held.release()
        await command
        await b.until("local", S.PAIR)
        await a.do("pair.resync", back)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")


async def test_a_copy_that_would_leave_no_consistent_copy_is_refused_and_said(
    tmp_path: Path,
) -> None:
    """Law L7: nobody waits for ever for an S-VOL whose third could not be kept."""
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        await write(a.volume("first"), 0, b"1" * BLOCK)
        before = b.image("second")

        async def guard(side: PairSide) -> None:
            raise RejectedError(Code.IO_ERROR, f"{side.volume.name} has no third")

        kept, b.node.pairs.guard = b.node.pairs.guard, guard  # type: ignore[method-assign]
        error = await refused(a, "pair.resync", m.PairResync(name="remote"))
        assert "second has no third" in error.message
        assert (shown(a), shown(b)) == (S.PSUS, S.SSUS)
        assert b.volume("second").state.consistent
        assert b.image("second") == before
        b.node.pairs.guard = kept  # type: ignore[method-assign]
        await a.do("pair.resync", m.PairResync(name="remote"))
        await a.until("remote", S.PAIR)


async def test_a_copy_back_that_would_leave_no_consistent_copy_locks_nobody_out(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b)
        await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        await write(b.volume("second"), 0, b"2" * BLOCK)

        async def guard(side: PairSide) -> None:
            raise RejectedError(Code.IO_ERROR, f"the mirror of {side.volume.name} can't be split")

        kept, a.node.pairs.guard = a.node.pairs.guard, guard  # type: ignore[method-assign]
        reverse = m.PairResync(name="remote", direction=REVERSE)
        error = await refused(a, "pair.resync", reverse)
        assert "the mirror of first can't be split" in error.message
        assert (shown(a), shown(b)) == (S.PSUS, S.SSUS)
        await write(a.volume("first"), BLOCK, b"1" * BLOCK)
        a.node.pairs.guard = kept  # type: ignore[method-assign]
        await a.do("pair.resync", reverse)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_the_third_is_kept_while_the_second_is_made_consistent(tmp_path: Path) -> None:
    """Law L7: the guard splits it, and it follows again by itself."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        await unlinked(a, b)
        before = b.image("third")
        await write(a.volume("first"), 0, b"g" * (2 << 20))
        await relink(a, b)
        await a.until("remote", S.COPY)
        kept = await b.until("local", S.PSUS)
        assert "kept as the consistent copy" in kept.reason
        assert not b.volume("second").state.consistent
        with pytest.raises(LunError):
            await read(b.volume("second"), 0, BLOCK)
        assert b.image("third") == before
        error = await refused(b, "pair.resync", m.PairResync(name="local"))
        assert error.code is Code.NOT_CONSISTENT
        await a.until("remote", S.PAIR)
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")


async def test_the_third_is_kept_when_a_new_pair_is_to_overwrite_the_second(
    tmp_path: Path,
) -> None:
    """Law L7: what the second held is all that is left of it."""
    async with two_nodes(tmp_path) as (a, b):
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
        for name in ("second", "third"):
            await b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
        await write(b.volume("second"), 0, b"2" * BLOCK)
        await b.do("pair.create", LOCAL_PAIR)
        await b.until("local", S.PAIR)
        await write(a.volume("first"), 0, b"1" * (2 << 20))
        await a.do("pair.create", remote_pair(rate_limit_bytes_per_s=SLOW_BYTES_PER_S))
        kept = await b.until("local", S.PSUS)
        assert "kept as the consistent copy" in kept.reason
        assert not b.volume("second").state.consistent
        assert b.image("third")[:BLOCK] == b"2" * BLOCK
        await a.until("remote", S.PAIR)
        await b.until("local", S.PAIR)
        assert a.image("first") == b.image("second") == b.image("third")


async def test_the_third_comes_back_when_a_split_found_the_second_half_copied(
    tmp_path: Path,
) -> None:
    """Law L7: the one consistent copy is of use only where it can be copied from."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        await unlinked(a, b)
        before = b.image("third")
        await write(a.volume("first"), 0, b"g" * (2 << 20))
        await relink(a, b)
        await a.until("remote", S.COPY)
        await b.until("local", S.PSUS)
        await unlinked(a, b)
        await a.do("pair.split", m.PairSplit(name="remote"))
        await relink(a, b)
        await eventually(lambda: "no point in time" in b.pair("remote").reason)
        await b.do("pair.resync", m.PairResync(name="local", direction=REVERSE, force=True))
        await b.until("local", S.PAIR)
        assert b.image("second") == before
        await a.do("pair.resync", m.PairResync(name="remote", direction=REVERSE, force=True))
        await a.until("remote", S.PAIR)
        assert a.image("first") == before


async def test_what_an_operator_splits_meanwhile_stays_split(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b, size_bytes=SIZE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        await unlinked(a, b)
        await write(a.volume("first"), 0, b"g" * (1 << 20))
        await relink(a, b)
        await b.until("local", S.PSUS)
        await b.do("pair.split", m.PairSplit(name="local"))
        await a.until("remote", S.PAIR)
        await b.until("remote", S.PAIR)
        await b.node.pairs.get("local").caught_up()
        assert b.pair("local").state is S.PSUS
        assert a.image("first") == b.image("second")


async def test_async_mode_answers_early_and_ends_equal(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await in_sync(a, b, mode=m.Mode.ASYNC)
        first = a.volume("first")
        answered: list[object] = []
        for number in range(200):
            block = number * 7 % (SIZE // BLOCK)
            data = memoryview(bytes([number]) * BLOCK)
            first.write(block * BLOCK, data, False, answered.append)
        side = a.node.pairs.get("remote").side
        await eventually(lambda: len(answered) == 200)
        assert answered == [None] * 200
        assert side.channel is not None
        await eventually(lambda: side.channel is not None and side.channel.backlog_bytes == 0)
        assert a.image("first") == b.image("second")
        await unlinked(a, b)
        await write(first, 0, b"later" * 800 + bytes(96))
        await relink(a, b)
        await a.until("remote", S.PAIR)
        assert a.image("first") == b.image("second")


async def test_the_guard_looks_again_at_what_it_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for one mirror of a volume, the copy to another one may end."""
    async with two_nodes(tmp_path) as (a, b):
        await chain(a, b)
        await b.do("volume.create", m.VolumeCreate(name="spare", size_bytes=1 << 20))
        spare = LOCAL_PAIR.model_copy(update={"name": "undo", "s_volume": "spare"})
        await b.do("pair.create", spare)
        await b.until("undo", S.PAIR)
        for name in ("local", "undo"):
            await b.do("pair.split", m.PairSplit(name=name))
        await write(a.volume("first"), 0, b"1" * 128 * BLOCK)
        await a.do("pair.split", m.PairSplit(name="remote"))
        await write(a.volume("first"), 0, b"2" * BLOCK)
        undo, ended = b.node.pairs.get("undo"), asyncio.Event()

        async def last_step() -> None:
            await ended.wait()

        monkeypatch.setitem(undo._inner, "copied", last_step)
        await b.do("pair.resync", m.PairResync(name="undo"))
        await eventually(lambda: undo.side.copier is not None and undo.side.copier.ended)
        slow = m.PairResync(name="local", rate_limit_bytes_per_s=SLOW_BYTES_PER_S)
        await b.do("pair.resync", slow)
        mirroring: list[str] = []
        guard = Pairs.guard

        async def guarded(pairs: Pairs, side: PairSide) -> None:
            passing = asyncio.create_task(b.until("local", S.PAIR))
            passing.add_done_callback(lambda _: ended.set())
            await guard(pairs, side)
            mirroring.extend(
                each.record.name
                for each in pairs.of_volume("second")
                if each.record.role is m.Role.P_VOL and each.record.state is S.PAIR
            )

        monkeypatch.setattr(Pairs, "guard", guarded)
        await a.do("pair.resync", m.PairResync(name="remote"))
        assert mirroring == []
        await a.until("remote", S.PAIR)
        await b.until("local", S.PAIR)
        assert b.image("third") == b.image("second")
