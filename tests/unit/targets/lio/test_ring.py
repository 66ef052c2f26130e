"""The ring against a kernel's part: data, residuals, order, task management."""

from __future__ import annotations

import struct

import pytest

from targets.lio.layout import TmrKind
from targets.lio.ring import MAX_SPARE, TaskManagement
from targets.lio.takeover import judge
from targets.lun import LunFault
from targets.scsi.sense import Status
from tests.unit.targets.lio.kernel import PAGE, KernelRing
from tests.unit.targets.lio.rig import (
    FLUSH,
    LUN_BYTES,
    READY,
    Rig,
    inquiry,
    pattern,
    read_10,
    read_16,
    write_10,
)

pytestmark = pytest.mark.plain


BLOCKS = LUN_BYTES // 512


@pytest.fixture
def rig() -> Rig:
    return Rig(KernelRing())


# --------------------------------------------------------------------- one command


def test_data_goes_through_in_place(rig: Rig) -> None:
    data = pattern(5 * PAGE, 1)
    assert rig.ask(write_10(8, 40), out=data).status == Status.GOOD
    assert rig.lun.data[8 * 512 : 48 * 512] == data
    assert rig.ask(read_10(8, 40), len(data)).data == data
    assert rig.lun.log == ["write 4096 20480", "read 4096 20480"]  # one piece: nothing was copied


def test_scattered_pages_are_segments(rig: Rig) -> None:
    rig.kernel.free -= {1, 3}
    data = pattern(3 * PAGE, 2)
    assert rig.ask(write_10(0, 24), out=data).status == Status.GOOD
    assert rig.lun.data[: len(data)] == data
    assert rig.lun.log == ["write 0 4096", "write 4096 4096", "write 8192 4096"]
    assert rig.ask(read_16(0, 24), len(data)).data == data


def test_less_than_a_buffer_is_read(rig: Rig) -> None:
    answer = rig.ask(inquiry(255), 255)
    assert len(answer.data) == 96
    assert answer.data[8:14] == b"TRILUN"


def test_what_is_not_filled_shows_nothing_of_others(rig: Rig) -> None:
    """A read length of 0 is none for the kernel: it hands out the whole buffer."""
    assert rig.ask(inquiry(0), 64).data == bytes(64)
    assert rig.ask(READY, PAGE).data == bytes(PAGE)
    assert rig.ask(read_10(0, 0), 512).data == bytes(512)


def test_a_kernel_without_read_len_gets_zeros() -> None:
    rig = Rig(KernelRing(flags=1))
    data = rig.ask(inquiry(255), 255).data
    assert data[8:14] == b"TRILUN"
    assert data[96:] == bytes(159)


@pytest.mark.parametrize("length", [1, 100, 511, 513, 4097, 8191])
def test_a_transfer_that_is_no_whole_blocks(rig: Rig, length: int) -> None:
    rig.lun.data[:] = data = pattern(LUN_BYTES, 3)
    assert rig.ask(read_10(0, 16), length).data == data[:length]
    assert rig.ask(read_10(0, 8), 2 * PAGE).data == data[:PAGE]
    assert rig.ask(write_10(0, 16), out=bytes(length)).status == Status.GOOD
    whole = length // 512 * 512
    assert rig.lun.data == bytes(whole) + data[whole:]
    assert rig.kernel.unused() == []


def test_sense_replaces_the_request_in_full(rig: Rig) -> None:
    answer = rig.ask(read_10(BLOCKS, 1), 512)
    assert answer.status == Status.CHECK_CONDITION
    assert answer.sense[:18].hex() == "f00005" + f"{BLOCKS:08x}" + "0a00000000210000000000"
    assert answer.sense[18:] == bytes(78)
    rig.lun.fault = LunFault.NO_SPACE
    assert rig.ask(write_10(0, 1), out=bytes(512)).sense[12:14].hex() == "2707"


def test_an_opcode_nobody_knows_is_refused_with_sense(rig: Rig) -> None:
    answer = rig.ask(bytes((0xEE,)) + bytes(15), 512)
    assert (answer.status, answer.unknown, answer.sense[2], answer.sense[12]) == (2, False, 5, 0x20)


def test_an_entry_nobody_knows_is_passed(rig: Rig) -> None:
    first = rig.kernel.send(READY)
    strange = rig.kernel.send(READY, op=5)
    rig.device.run()
    assert rig.poke() == [first, strange]
    assert rig.kernel.answers[strange or 0].unknown


def test_write_same_without_a_buffer_and_unmap(rig: Rig) -> None:
    rig.lun.data[:] = pattern(LUN_BYTES, 4)
    assert rig.ask(struct.pack(">BBQIBB", 0x93, 0x09, 8, 8, 0, 0)).status == Status.GOOD
    ranges = struct.pack(">HHIQII", 22, 16, 0, 32, 8, 0)
    unmap = struct.pack(">BBIBHB", 0x42, 0, 0, 0, len(ranges), 0)
    assert rig.ask(unmap, out=ranges).status == Status.GOOD
    assert rig.lun.log[-2:] == ["discard 4096 4096", "discard 16384 4096"]


# --------------------------------------------------------------------- order


def test_a_slow_command_holds_nobody_back(rig: Rig) -> None:
    rig.hold()
    slow = rig.kernel.send(FLUSH)
    rig.device.run()
    waiting, rig.lun.held = rig.lun.held, None
    assert waiting is not None
    rig.lun.data[:] = data = pattern(LUN_BYTES, 5)
    for lba in range(40):  # round the ring more than once
        cmd_id = rig.kernel.send(read_10(lba, 1), 512)
        rig.device.run()
        assert rig.poke() == [cmd_id]
        assert rig.kernel.answers[cmd_id or 0].data == data[lba * 512 : lba * 512 + 512]
        assert set(judge(rig.kernel.view).fates) == {slow}
    waiting[0]()
    assert rig.poke() == [slow]
    assert rig.kernel.tail == rig.kernel.head


def test_one_wake_a_batch(rig: Rig) -> None:
    for _ in range(3):
        rig.kernel.send(READY)
    rig.device.run()
    assert (rig.wakes, rig.ring.poke_due) == (1, True)
    assert len(rig.poke()) == 3
    rig.kernel.send(READY)
    rig.device.run()
    assert rig.wakes == 2


def test_objects_are_used_again(rig: Rig) -> None:
    rig.hold()
    first = [rig.kernel.send(write_10(0, 1), out=bytes(512)) for _ in range(4)]
    rig.device.run()
    seen = set(map(id, rig.ring.pending.values()))
    for _ in first:
        rig.finish()
    rig.poke()
    assert all(command.segments == () for command in rig.ring._spare)
    rig.kernel.send(FLUSH)
    rig.device.run()
    assert {id(each) for each in rig.ring.pending.values()} < seen
    command = next(iter(rig.ring.pending.values()))
    assert (command.writes, command.total_bytes, command.data_out) == (False, 0, ())
    assert len(rig.ring._spare) <= MAX_SPARE


def test_detached_it_touches_no_slot_and_says_when_all_are_done(rig: Rig) -> None:
    rig.hold()
    for lba in range(2):
        rig.kernel.send(read_10(lba, 1), 512)
    rig.device.run()
    rig.device.close()
    before = bytes(rig.kernel.area[: rig.kernel.data_at])
    rig.kernel.send(READY)
    rig.device.run()
    rig.finish()
    assert (rig.wakes, len(rig.ring.pending)) == (0, 1)
    rig.finish()
    assert (rig.wakes, len(rig.ring.pending)) == (1, 0)
    assert bytes(rig.kernel.area[64:68]) == before[64:68]
    assert rig.kernel.collect() == []
    assert not rig.server.unit.nexuses


# --------------------------------------------------------------------- task management


def test_task_management_is_passed_on_and_passed_over(rig: Rig) -> None:
    ring = rig.ring
    assert rig.kernel.notify(TmrKind.ABORT_TASK, [7, 0xFFFF, 9])
    assert ring.take() == TaskManagement(TmrKind.ABORT_TASK, (7, 0xFFFF, 9))
    assert rig.kernel.tail == rig.kernel.head
    assert rig.wakes == 1
    assert ring.take() is None
    assert rig.poke() == []


def test_a_reset_undoes_what_mode_select_set(rig: Rig) -> None:
    unit = rig.server.unit
    for kind, protected in (
        (TmrKind.ABORT_TASK_SET, True),
        (200, True),
        (TmrKind.LUN_RESET, False),
    ):
        unit.software_write_protect = True
        rig.kernel.notify(kind, [])
        rig.device.run()
        assert unit.software_write_protect is protected
    assert not rig.device.nexus.attentions  # the kernel has its own


def test_aborted_commands_are_answered(rig: Rig) -> None:
    rig.hold()
    ids = [rig.kernel.send(read_10(0, 1), 512) for _ in range(2)]
    rig.device.run()
    rig.kernel.notify(TmrKind.ABORT_TASK, [ids[0] or 0])
    rig.device.run()
    rig.finish(1)
    rig.finish()
    assert rig.poke() == [ids[1], ids[0]]
