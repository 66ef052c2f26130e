"""Jobs in front of real controllers, one of which, or the way to one, is away for a while.

Owns the moment at which it breaks, and when that is mended: by the clock of the jobs, so that a
minute takes no time. A moment is a boundary of a step, or a message that one side of the remote
pair sends to the other; the message is lost then. A controller that breaks dies as by `kill -9`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.link.transport import Peer
from controller.pair.conversation import Conversation
from controller.pair.messages import PairMessage
from hostagent.config import DataSetConfig
from hostagent.copying.comparing import Compared
from hostagent.copying.copier import Copied
from hostagent.copying.verify import Verified
from hostagent.copying.walk import Listed
from tests.integration.backups.kit import BLOCK, SIZE, Files, Rig, S, data_set
from tests.integration.backups.test_group_backup import FIRSTS, GroupRig, another_chain, both
from tests.integration.backups.test_group_restore import RestoreRig
from tests.rig import Running, chain, linked, relink, start_node, unlinked, write

What = Literal["link", "primary", "secondary", "broker"]
EVERYTHING: tuple[What, ...] = ("link", "primary", "secondary", "broker")
SOON_S, LATE_S = 4.0, 200.0
"""Mended before a careful job gives up, and long after."""
AWAY = RejectedError(Code.UNREACHABLE, "no answer", "look there")
RESTORED_BLOCKS = range(4, 8)
"""Of these the file consists that a restore brings back."""


class FileBlocks(Files):
    """Host 2's mounts, with one file in the middle of the volume."""

    def __init__(self, kit: BreakingRig) -> None:
        super().__init__()
        self._kit = kit

    def _there(self) -> Running:
        if self._kit.dead == "secondary":
            raise OSError(5, "Input/output error")
        return self._kit.b

    async def mount(self, key: str, address: object, data_set: object) -> Path:
        self._there()
        return await super().mount(key, address, data_set)

    async def compare(self, *_: object) -> Compared:
        self._there()
        compared = Compared(10)
        compared.note("a", "content")
        return compared

    async def copy(self, *_: object) -> Copied:
        third = self._there().image("third")
        for block in RESTORED_BLOCKS:
            volume = self._there().volume("second")
            await write(volume, block * BLOCK, third[block * BLOCK : (block + 1) * BLOCK])
        return Copied(1)

    async def verify(self, *_: object) -> Verified:
        self._there()
        return Verified([Listed("a", "file", 10, "d" * 64)], 10, 10, 1)


class BreakingRig(Rig):
    """Everything a job reaches, until it doesn't."""

    def __init__(self, a: Running, b: Running, config: DataSetConfig, directory: Path) -> None:
        super().__init__(a, b, config, directory)
        self.files = FileBlocks(self)
        self.at = ""
        """The moment at which it breaks, once."""
        self.what: What = "link"
        self.away_s = SOON_S
        self.dead: What | None = None
        self._broken = asyncio.Event()
        self._mend_at_s = 0.0
        self._breaking: asyncio.Task[None] | None = None
        self.moments: list[str] = []

    # -- breaking and mending

    async def moment(self, what: str) -> None:
        self.moments.append(what)
        if what == self.at:
            self.at = ""
            await self._break()
        await super().moment(what)

    def said(self, sender: str, message: PairMessage) -> bool:
        """Whether what a side of the remote pair says is lost."""
        what = f"{sender} says {type(message).__name__}"
        self.moments.append(what)
        if what != self.at:
            return False
        self.at = ""
        if self.what == "broker":
            self._begin_to_break()
            return False
        self._breaking = asyncio.get_running_loop().create_task(self._break())
        return True

    def _begin_to_break(self) -> None:
        self.dead = self.what
        self._mend_at_s = self.clock.now_s + self.away_s
        if self.what != "link":
            self._broken.set()

    async def _break(self) -> None:
        self._begin_to_break()
        if self.what == "link":
            await unlinked(self.a, self.b)
        elif self.what == "primary":
            await self.a.crash()
        elif self.what == "secondary":
            await self.b.crash()

    async def mend(self) -> None:
        """What broke is there again."""
        if self._breaking is not None:
            await self._breaking
            self._breaking = None
        dead, self.dead = self.dead, None
        self._broken.clear()
        if dead == "link":
            await relink(self.a, self.b)
        elif dead == "primary":
            self.a = await start_a(self.a.directory, self.b)
            self.a.logged_in("first", *([] if self.released_for else ["iqn.h1"]))
            await linked(self.a, self.b)
        elif dead == "secondary":
            port = self.b.node.link_port
            self.b = await start_b(self.b.directory, port)
            await linked(self.a, self.b)

    async def pause(self, seconds: float) -> None:
        await super().pause(seconds)
        if self.dead is not None and self.clock.now_s >= self._mend_at_s:
            await self.mend()

    # -- nodes

    def _reaches(self, node: str) -> bool:
        lost = {"broker": ("a", "b", "h1"), "primary": ("a",), "secondary": ("b",)}
        return self.dead is None or node not in lost.get(self.dead, ())

    async def _carry_out(self, node: str, verb: str, params: m.Params) -> m.Info | RejectedError:
        if not self._reaches(node):
            raise AWAY
        work = asyncio.ensure_future(super()._carry_out(node, verb, params))
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait({work, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done() and not self._reaches(node):
                # A broker that is away keeps no controller from doing it.
                await asyncio.wait({work}) if self.dead == "broker" else work.cancel()
                raise RejectedError(Code.TIMEOUT, "no answer came", "look there")
            return await work
        finally:
            broken.cancel()

    def _host1(self, verb: str, params: Any) -> m.Info:
        if verb == "fs.reclaim":
            if self.dead == "primary":
                # It goes on trying by itself.
                self.released_for = ""
                raise RejectedError(Code.NO_PEER, "the primary doesn't answer", "look there")
            access = self.a.volume("first").access.value
            if access != "read_write":
                raise RejectedError(Code.WRONG_STATE, f"volume 'first' is {access}", "look at it")
        if self.dead == "primary" and verb == "fs.release":
            self.released_for = params.job
            return m.HostFs(data_set="ds", mounted=False, frozen=False, mountpoint="/srv/ds")
        return super()._host1(verb, params)

    async def at_rest(self) -> None:
        """Everything is mended, and both controllers have met."""
        if self.dead is not None or self._breaking is not None:
            await self.mend()
        await linked(self.a, self.b)


class BreakingGroup(GroupRig, BreakingRig):
    """The same with two data sets and the group of both."""


class BreakingRestore(RestoreRig, BreakingRig):
    """Two data sets that go back together; host 1 lets go of each on its own."""

    def _host1(self, verb: str, params: Any) -> m.Info:
        name = params.data_set
        if self.dead == "primary" and verb == "fs.release":
            self.released[name] = params.job
            return m.HostFs(data_set=name, mounted=False, frozen=False, mountpoint=f"/srv/{name}")
        if self.dead == "primary" and verb == "fs.reclaim":
            # It goes on trying by itself.
            self.released.pop(name, None)
            raise RejectedError(Code.NO_PEER, "the primary doesn't answer", "look there")
        if verb == "fs.reclaim":
            access = self.a.volume(FIRSTS[name]).access.value
            if access != "read_write":
                raise RejectedError(Code.WRONG_STATE, f"a volume is {access}", "look at it")
        return RestoreRig._host1(self, verb, params)

    async def mend(self) -> None:
        await super().mend()
        for name, volume in FIRSTS.items():
            self.a.logged_in(volume, *([] if name in self.released else ["iqn.h1"]))


_GroupT = TypeVar("_GroupT", BreakingGroup, BreakingRestore)


async def start_b(directory: Path, port: int = 0) -> Running:
    """The secondary, over its files."""
    return await start_node(directory, "b", [Peer("a", "127.0.0.1", 1)], port=port, crashes=True)


async def start_a(directory: Path, b: Running) -> Running:
    """The primary, over its files."""
    peers = [Peer("b", "127.0.0.1", b.node.link_port)]
    return await start_node(directory, "a", peers, crashes=True)


@asynccontextmanager
async def _running(directory: Path) -> AsyncIterator[list[Running]]:
    """Both controllers with the chain of three volumes; one that is replaced is so in the list."""
    b = await start_b(directory / "b")
    running = [await start_a(directory / "a", b), b]
    try:
        await linked(*running)
        await chain(running[0], running[1], SIZE)
        yield running
    finally:
        for node in running:
            await node.stop()


@asynccontextmanager
async def breaking_rig(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BreakingRig]:
    """first on a, second and two thirds on b, all in sync."""
    async with _running(directory) as running:
        a, b = running
        await b.do("volume.create", m.VolumeCreate(name="third-2", size_bytes=SIZE))
        local = {"kind": m.PairKind.LOCAL, "p_volume": "second", "s_volume": "third-2"}
        await b.do("pair.create", m.PairCreate.model_validate({"name": "local-2", **local}))
        await b.until("local-2", S.PAIR)
        config = data_set(("third", "local"), ("third-2", "local-2"))
        kit = BreakingRig(a, b, config, directory / "jobs")
        async with _listening(kit, monkeypatch, running):
            yield kit


@asynccontextmanager
async def breaking_group(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BreakingGroup]:
    """Two such chains, and the group of both."""
    async with _two_data_sets(BreakingGroup, directory, monkeypatch) as kit:
        yield kit


@asynccontextmanager
async def breaking_restore(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BreakingRestore]:
    """The same, for both to go back."""
    async with _two_data_sets(BreakingRestore, directory, monkeypatch) as kit:
        yield kit


@asynccontextmanager
async def _two_data_sets(
    kind: type[_GroupT], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[_GroupT]:
    async with _running(directory) as running:
        a, b = running
        await another_chain(a, b)
        kit = kind(a, b, both(), directory / "jobs")
        async with _listening(kit, monkeypatch, running):
            yield kit


@asynccontextmanager
async def _listening(
    kit: BreakingRig, monkeypatch: pytest.MonkeyPatch, running: list[Running]
) -> AsyncIterator[None]:
    send = Conversation.send

    def heard(self: Conversation, message: PairMessage) -> None:
        record = self._side.record
        sender = "primary" if record.role is m.Role.P_VOL else "secondary"
        if record.name != "remote" or not kit.said(sender, message):
            send(self, message)

    monkeypatch.setattr(Conversation, "send", heard)
    try:
        yield
    finally:
        await kit.at_rest()
        kit.blocking.close()
        running[:] = [kit.a, kit.b]
