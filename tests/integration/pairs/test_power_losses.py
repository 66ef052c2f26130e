"""After a power loss nobody writes who may take for kept what is gone (law L5)."""

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
READ = "28" + "00" * 9
WRITE = "2a" + "00" * 9
"""Of no blocks, as READ."""
UNMAP = "42" + "00" * 9
WRITE_SAME = "93 09 00 00 00 00 00 00 00 00 00 00 00 08 00 00"
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


@pytest.mark.parametrize("command", [FLUSH, "91" + "00" * 15, STOP, WRITE, UNMAP, WRITE_SAME])
async def test_behind_a_power_loss_nothing_is_written_or_flushed(
    machine: Machine, command: str
) -> None:
    assert await machine.ended(machine.host("h"), command) is None
    await write(machine.up.volume("v"), 0, b"u" * BLOCK)
    await machine.lose_power()
    host = machine.host("h")
    assert await machine.ended(host, "00" * 6) is None
    assert await machine.ended(host, READ) is None
    for _ in range(3):
        assert await machine.ended(host, command) == LOST
    assert await machine.ended(machine.host("h"), command) == LOST


async def test_an_initiator_writes_again_when_it_has_looked_anew(machine: Machine) -> None:
    await machine.lose_power()
    for name in ("h", "i"):
        host = machine.host(name)
        assert await machine.ended(host, FLUSH) == LOST
        assert await machine.ended(host, INQUIRY) is None
        assert await machine.ended(host, WRITE) is None
        assert await machine.ended(host, FLUSH) is None
        assert await machine.ended(machine.host(name), FLUSH) is None


async def test_who_asks_for_a_serial_number_has_not_looked_anew(machine: Machine) -> None:
    await machine.lose_power()
    host = machine.host("h")
    assert await machine.ended(host, IDENTIFICATION) is None
    assert await machine.ended(host, FLUSH) == LOST


async def test_a_daemon_that_is_killed_loses_nothing(machine: Machine) -> None:
    await machine.killed()
    assert await machine.ended(machine.host("h"), FLUSH) is None


@pytest.mark.parametrize("reboot", [False, True])
async def test_a_clean_stop_loses_nothing(machine: Machine, *, reboot: bool) -> None:
    await machine.stopped(reboot=reboot)
    assert await machine.ended(machine.host("h"), FLUSH) is None


async def test_who_was_away_must_look_anew_when_it_is_back(machine: Machine) -> None:
    await machine.lose_power()
    assert await machine.ended(machine.host("here"), INQUIRY) is None
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
