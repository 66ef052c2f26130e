"""A ring with a device server behind it, and CDBs to send."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

from targets.lio.device import RingDevice
from targets.lio.ring import Ring
from targets.lio.takeover import Fate
from targets.scsi.device import DeviceServer
from tests.unit.targets.lio.kernel import Answer, KernelRing
from tests.unit.targets.memory import MemoryLun

LUN_BYTES = 1 << 18


def pattern(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0)


def read_16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0)


def inquiry(allocation: int) -> bytes:
    return struct.pack(">BBBHB", 0x12, 0, 0, allocation, 0)


FLUSH = bytes((0x35,)) + bytes(9)
READY = bytes(6)


@dataclass
class Rig:
    """A daemon: it serves `kernel` until it is thrown away."""

    kernel: KernelRing
    lun: MemoryLun = field(default_factory=lambda: MemoryLun(LUN_BYTES))
    fates: dict[int, Fate] = field(default_factory=dict)
    wakes: int = 0

    def __post_init__(self) -> None:
        self.ring = Ring(self.kernel.view, self._wake)
        self.server = DeviceServer(self.lun)
        self.device = RingDevice(self.ring, self.server, self.fates)

    def _wake(self) -> None:
        self.wakes += 1

    def hold(self) -> None:
        """Commands that touch the medium stay inside until `finish`."""
        self.lun.held = []

    def finish(self, index: int = 0) -> None:
        """Let one of the held commands end."""
        assert self.lun.held is not None
        self.lun.held.pop(index)()

    def poke(self) -> list[int]:
        """Have the kernel collect."""
        self.ring.poked()
        return self.kernel.collect()

    def ask(self, cdb: bytes, length: int = 0, out: bytes | None = None) -> Answer:
        """One command from beginning to end."""
        cmd_id = self.kernel.send(cdb, length, out)
        assert cmd_id is not None
        self.device.run()
        assert cmd_id in self.poke()
        return self.kernel.answers[cmd_id]
