"""A command's object is used again as soon as it is answered: nobody may look at it behind that."""

from __future__ import annotations

import struct

import pytest

from targets.lun import LunFault
from targets.scsi.sense import Status
from tests.unit.targets.lio.kernel import KernelRing
from tests.unit.targets.lio.rig import Rig, write_10

MISCOMPARE = 0x0E


def verify_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x2F, 0x02, lba, 0, blocks, 0)


@pytest.mark.parametrize("blocks", [1, 8, 16])
def test_a_difference_is_answered_once(blocks: int) -> None:
    rig = Rig(KernelRing())
    data = bytes(range(256)) * 2 * blocks
    rig.ask(write_10(0, blocks), out=data)
    assert rig.ask(verify_10(0, blocks), out=data).status == Status.GOOD
    wrong = rig.ask(verify_10(0, blocks), out=data[:-1] + b"\0")
    assert wrong.status == Status.CHECK_CONDITION
    assert wrong.sense[2] & 0x0F == MISCOMPARE
    assert rig.ask(verify_10(0, blocks), out=data).status == Status.GOOD


def test_a_fault_in_the_middle_is_answered_once() -> None:
    rig = Rig(KernelRing())
    rig.lun.fault = LunFault.READ_ERROR
    assert rig.ask(verify_10(0, 8), out=bytes(4096)).status == Status.CHECK_CONDITION
    rig.lun.fault = None
    assert rig.ask(verify_10(0, 8), out=bytes(4096)).status == Status.GOOD
