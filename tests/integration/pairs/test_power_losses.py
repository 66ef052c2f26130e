"""After a power loss each initiator hears of it before a flush is answered well (law L5)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.volume.losses import MAX_SETTLED
from targets.scsi.command import Nexus
from targets.scsi.device import DeviceServer
from tests.rig import Running, eventually, start_node, write
from tests.unit.targets.memory import run

BLOCK = 4096
FLUSH = "35" + "00" * 9
STOP = "1b 00 00 00 00 00"
INQUIRY = "12 00 00 00ff 00"
IDENTIFICATION = "12 01 83 00ff 00"
LOST = (4, 0x0C, 0)
"""HARDWARE ERROR, WRITE ERROR."""


class Machine:
    """A controller with one volume, and the hosts that log in to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.boots = 0
        self.node: Running | None = None

    @property
    def up(self) -> Running:
        assert self.node is not None
        return self.node

    async def start(self) -> None:
        boot_id = f"boot {self.boots}"
        self.node = await start_node(self.directory, "a", [], crashes=True, boot_id=boot_id)

    async def make_volume(self) -> None:
        await self.up.do("volume.create", m.VolumeCreate(name="v", size_bytes=1 << 20))
        self.serve()

    def serve(self) -> None:
        self.server = DeviceServer(self.up.volume("v"))

    async def lose_power(self) -> None:
        await self.up.crash(random.Random(1))
        self.boots += 1
        await self.start()
        self.serve()

    async def killed(self) -> None:
        await self.up.crash()
        await self.start()
        self.serve()

    async def stopped(self, *, reboot: bool) -> None:
        await self.up.stop()
        self.boots += reboot
        await self.start()
        self.serve()

    def host(self, name: str) -> Nexus:
        """An initiator whose session is taken up again: it asks nothing first."""
        return self.server.open_nexus(name, power_on=False)

    async def ended(self, host: Nexus, cdb: str) -> tuple[int, int, int] | None:
        """How a command ends: sense, or None for GOOD."""
        command = run(self.server, host, cdb)
        await eventually(lambda: command.completions or None)
        return command.condition


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path)
    await made.start()
    await made.make_volume()
    yield made
    await made.up.stop()


@pytest.mark.parametrize("flush", [FLUSH, "91" + "00" * 15, STOP])
async def test_the_first_flush_behind_a_power_loss_fails(machine: Machine, flush: str) -> None:
    assert await machine.ended(machine.host("h"), flush) is None
    await write(machine.up.volume("v"), 0, b"u" * BLOCK)
    await machine.lose_power()
    host = machine.host("h")
    assert await machine.ended(host, "00" * 6) is None
    assert await machine.ended(host, flush) == LOST
    assert await machine.ended(host, flush) is None
    assert await machine.ended(host, flush) is None


async def test_each_initiator_hears_it(machine: Machine) -> None:
    await machine.lose_power()
    for name in ("h", "i"):
        host = machine.host(name)
        assert await machine.ended(host, FLUSH) == LOST
        assert await machine.ended(host, FLUSH) is None


async def test_who_looks_anew_lost_nothing(machine: Machine) -> None:
    await machine.lose_power()
    host = machine.host("h")
    assert await machine.ended(host, INQUIRY) is None
    assert await machine.ended(host, FLUSH) is None
    # Something that only asks for a serial number on a host that was there before.
    other = machine.host("i")
    assert await machine.ended(other, IDENTIFICATION) is None
    assert await machine.ended(other, FLUSH) == LOST


async def test_an_answer_that_may_not_have_arrived_is_given_again(machine: Machine) -> None:
    await machine.lose_power()
    assert await machine.ended(machine.host("h"), FLUSH) == LOST
    again = machine.host("h")
    assert await machine.ended(again, FLUSH) == LOST
    assert await machine.ended(again, FLUSH) is None
    assert await machine.ended(machine.host("h"), FLUSH) is None


async def test_a_daemon_that_is_killed_loses_nothing(machine: Machine) -> None:
    await machine.killed()
    assert await machine.ended(machine.host("h"), FLUSH) is None


@pytest.mark.parametrize("reboot", [False, True])
async def test_a_clean_stop_loses_nothing(machine: Machine, *, reboot: bool) -> None:
    await machine.stopped(reboot=reboot)
    assert await machine.ended(machine.host("h"), FLUSH) is None


async def test_who_was_away_hears_of_it_when_it_is_back(machine: Machine) -> None:
    await machine.lose_power()
    here = machine.host("here")
    assert await machine.ended(here, FLUSH) == LOST
    assert await machine.ended(here, FLUSH) is None
    await machine.stopped(reboot=True)
    await machine.killed()
    assert await machine.ended(machine.host("here"), FLUSH) is None
    assert await machine.ended(machine.host("away"), FLUSH) == LOST
    await machine.lose_power()
    assert await machine.ended(machine.host("here"), FLUSH) == LOST


async def test_a_bounded_number_of_initiators_is_remembered(machine: Machine) -> None:
    await machine.lose_power()
    for number in range(MAX_SETTLED + 1):
        assert await machine.ended(machine.host(f"h{number}"), INQUIRY) is None
    assert await machine.ended(machine.host(f"h{MAX_SETTLED}"), FLUSH) is None
    assert await machine.ended(machine.host("h0"), FLUSH) == LOST
