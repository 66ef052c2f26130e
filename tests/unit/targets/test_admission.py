"""Which initiators the embedded target lets in, and shows a target to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from targets.iscsi import text
from targets.iscsi.login import LoginMachine, LoginStatus, Request, Rules, State
from targets.iscsi.node import TargetConfig, UnknownTargetError
from targets.iscsi.pdu import Opcode
from targets.iscsi.server import IscsiServer, Limits
from targets.naming import initiator_name, is_iscsi_name
from tests.unit.targets.initiator import HOST, IQN, WRITE, Initiator, write_10
from tests.unit.targets.memory import MemoryLun

pytestmark = pytest.mark.plain

OTHER = "iqn.2026-11.example:other"
SHOWN = f"{IQN}.other"


@pytest.mark.parametrize(
    "name",
    [
        "iqn.1993-08.org.debian:01:abc",
        "iqn.1991-05.com.microsoft:my_host",
        "iqn.2026-11.example",
        "eui.0123456789abcdef",
        "naa.0123456789abcdef",
        "naa.0123456789abcdef0123456789abcdef",
    ],
)
def test_names_that_initiators_have(name: str) -> None:
    assert is_iscsi_name(name)
    assert initiator_name(name.upper()) == name


@pytest.mark.parametrize(
    "name",
    ["", "host1", "iqn.2026.example", "iqn.2026-11.", "eui.0123", "naa.01234567", "iqn.2026-11.a b",
     "iqn.2026-11.a/b", "iqn.2026-11.example:" + "x" * 220, "iqn.2026-11.example:a\n"],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="not an iSCSI name"):
        initiator_name(name)


def test_an_empty_list_lets_everybody_in() -> None:
    assert TargetConfig(IQN, {}).admits(OTHER)
    config = TargetConfig(IQN, {}, initiators=frozenset({HOST}))
    assert config.admits(HOST)
    assert config.admits(HOST.upper())
    assert not config.admits(OTHER)


def test_a_login_of_another_is_refused_before_anything_else() -> None:
    rules = Rules(lambda _iqn: (None, ""), os.urandom, lambda _iqn, initiator: initiator == HOST)

    def attempt(initiator: str, **more: str) -> tuple[LoginStatus, str, State]:
        machine = LoginMachine(rules)
        keys = {"InitiatorName": initiator, "TargetName": IQN, **more}
        data = text.encode(keys.items())
        reply = machine.receive(Request(True, False, 1, 3, 0, bytes(6), 0, data))
        return reply.status, reply.detail, machine.state

    assert attempt(HOST)[0] is LoginStatus.SUCCESS
    assert attempt(OTHER) == (LoginStatus.FORBIDDEN, f"not in the list of {IQN}", State.FAILED)
    assert LoginStatus.FORBIDDEN.value == 0x0202
    assert attempt(OTHER, SessionType="Discovery")[0] is LoginStatus.SUCCESS


class Door:
    """A target for HOST alone, and one for everybody, on one unit."""

    def __init__(self) -> None:
        self.lun = MemoryLun(1 << 20)
        limits = Limits(logout_s=0.05)
        self.server = IscsiServer(clock=lambda: 1.0, random_bytes=os.urandom, limits=limits)
        self.server.add_target(TargetConfig(IQN, {0: self.lun}, initiators=frozenset({HOST})))
        self.server.add_target(TargetConfig(SHOWN, {}))
        self.address = ("", 0)
        self.opened: list[Initiator] = []

    async def knock(self, initiator: str, *, isid: int = 1) -> tuple[Initiator, int]:
        """A connection, and the status of its login to IQN."""
        made = await Initiator.connect(self.address)
        self.opened.append(made)
        answer = await made.login({"InitiatorName": initiator}, isid=isid)
        return made, answer.header[11] >> 16

    async def found_by(self, initiator: str) -> set[str]:
        made = await Initiator.connect(self.address)
        self.opened.append(made)
        await made.login({"InitiatorName": initiator}, discovery=True)
        made.send(Opcode.TEXT, 0x80, (5, 0xFFFFFFFF, 100, 0, 0, 0, 0, 0), data=b"SendTargets=All\0")
        said = (await made.receive()).data.decode().split("\0")
        return {each.removeprefix("TargetName=") for each in said if each.startswith("TargetName=")}

    def there(self) -> list[str]:
        return sorted(each.initiator for each in self.server.sessions(IQN))


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    made.address = await made.server.listen("127.0.0.1", 0)
    yield made
    made.lun.release()
    for each in made.opened:
        await each.close()
    await made.server.close()


async def test_those_of_the_list_get_in_and_find_it(door: Door) -> None:
    _, status = await door.knock(HOST)
    assert status == 0
    stranger, status = await door.knock(OTHER)
    assert status == 0x0202
    assert await stranger.closed()
    assert door.there() == [HOST]
    assert await door.found_by(HOST) == {IQN, SHOWN}
    assert await door.found_by(OTHER) == {SHOWN}


async def test_a_longer_list_and_none_at_all(door: Door) -> None:
    host, _ = await door.knock(HOST)
    await host.clear()
    await door.server.allow(IQN, frozenset({HOST, OTHER}))
    assert (await door.knock(OTHER, isid=2))[1] == 0
    await door.server.allow(IQN, frozenset())
    assert (await door.knock("iqn.2026-11.example:third", isid=3))[1] == 0
    host.command(bytes(6))
    assert (await host.receive()).status == 0
    with pytest.raises(UnknownTargetError):
        await door.server.allow("iqn.2026-11.io.trilun:none", frozenset())


async def test_a_shorter_list_ends_sessions_of_those_it_leaves_out(door: Door) -> None:
    """They are asked to leave first; what they have in a volume ends before this returns."""
    await door.server.allow(IQN, frozenset())
    host, _ = await door.knock(HOST)
    await host.clear()
    stranger, _ = await door.knock(OTHER, isid=2)
    await stranger.clear()
    door.lun.held = []
    stranger.command(write_10(0, 1), WRITE, 512, bytes(512))
    async with asyncio.timeout(5):
        while not door.lun.held:  # noqa: ASYNC110 - the unit has no event for it
            await asyncio.sleep(0.001)
    allowing = asyncio.create_task(door.server.allow(IQN, frozenset({HOST})))
    assert (await stranger.receive()).opcode == Opcode.ASYNC
    assert await stranger.closed()
    assert door.there() == [HOST]
    assert not allowing.done(), "a write of somebody who may not is still inside"
    door.lun.release()
    await allowing
    host.command(bytes(6))
    assert (await host.receive()).status == 0
    assert (await door.knock(OTHER, isid=2))[1] == 0x0202


async def test_a_login_that_began_before_the_list_changed(door: Door) -> None:
    """Between its first request and its last."""
    await door.server.allow(IQN, frozenset())
    stranger = await Initiator.connect(door.address)
    door.opened.append(stranger)
    keys = {"InitiatorName": OTHER, "TargetName": IQN}
    words = (0, 0, 1, 0, 0, 0, 0, 0)
    stranger.send(0x43, 0x04, words, lun=1 << 16, data=text.encode(keys.items()))
    assert (await stranger.receive()).header[11] >> 16 == 0
    await door.server.allow(IQN, frozenset({HOST}))
    stranger.send(0x43, 0x87, words, lun=1 << 16)
    assert (await stranger.receive()).header[11] >> 16 == 0x0202
    assert door.there() == []


async def test_a_reinstatement_that_waits_while_the_list_changes(door: Door) -> None:
    await door.server.allow(IQN, frozenset())
    first, _ = await door.knock(OTHER)
    await first.clear()
    door.lun.held = []
    first.command(write_10(0, 1), WRITE, 512, bytes(512))
    async with asyncio.timeout(5):
        while not door.lun.held:  # noqa: ASYNC110 - the unit has no event for it
            await asyncio.sleep(0.001)
    second = await Initiator.connect(door.address)
    door.opened.append(second)
    again = asyncio.create_task(second.login({"InitiatorName": OTHER}))
    assert await first.closed()
    allowing = asyncio.create_task(door.server.allow(IQN, frozenset({HOST})))
    await asyncio.sleep(0)
    door.lun.release()
    assert (await again).header[11] >> 16 == 0x0202
    await allowing
    assert door.there() == []
