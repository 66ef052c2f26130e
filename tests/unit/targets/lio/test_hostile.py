"""Rings whose content contradicts itself: refused, and nothing outside is touched."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.lio.layout import COMMAND_BYTES, MailboxError, TcmuError, TornRingError
from targets.lio.ring import Ring, RingCommand
from targets.lio.takeover import judge
from targets.scsi.sense import Status
from tests.unit.targets.lio.kernel import PAGE, RING_AT, KernelRing, RingBrokenError
from tests.unit.targets.lio.rig import (
    FLUSH,
    READY,
    Rig,
    read_10,
    write_10,
)

pytestmark = pytest.mark.plain


# --------------------------------------------------------------------- the mailbox


@pytest.mark.parametrize(
    ("at", "form", "value", "why"),
    [
        (0, "H", 1, "version 1"),
        (0, "H", 3, "version 3"),
        (2, "H", 0xE, "out of order"),
        (4, "I", 64, "not aligned"),
        (4, "I", 132, "not aligned"),
        (8, "I", 2044, "not aligned"),
        (8, "I", 8, "a ring of 8 bytes"),
        (8, "I", 0xFFFFFFF8, "a ring of"),
        (64, "I", 2048, "cmd_tail"),
        (64, "I", 4, "cmd_tail"),
    ],
)
def test_a_mailbox_that_cannot_be_served(at: int, form: str, value: int, why: str) -> None:
    kernel = KernelRing()
    struct.pack_into(f"={form}", kernel.area, at, value)
    with pytest.raises(TcmuError, match=why):
        Ring(kernel.view, lambda: None)


@pytest.mark.parametrize(
    "area",
    [memoryview(bytearray(127)), memoryview(bytes(4096)), memoryview(bytearray(512)).cast("I")],
)
def test_a_mapping_that_is_none(area: memoryview) -> None:
    with pytest.raises(MailboxError):
        Ring(area, lambda: None)


# --------------------------------------------------------------------- hostile content


def entry_at(kernel: KernelRing) -> int:
    return RING_AT + kernel.cleaned


@pytest.mark.parametrize(
    ("at", "form", "value", "why"),
    [
        (0, "I", 1, "an entry of 0 bytes"),
        (0, "I", 4096 | 1, "an entry of 4096 bytes"),
        (0, "I", 136 | 1, "an entry of 136 bytes at 0, head 128"),
        (0, "I", 64 | 1, "kind 1 and 64 bytes"),
        (0, "I", 24 | 2, "kind 2 and 24 bytes"),
        (8, "I", 1000, "iovecs"),
        (12, "I", 0xFFFFFFFF, "iovecs"),
        (24, "Q", 0, "a CDB at 0"),
        (24, "Q", 1 << 63, "a CDB"),
        (48, "Q", 0, "outside of the data area"),
        (48, "Q", RING_AT, "outside of the data area"),
        (48, "Q", 0xFFFFFFFFFFFFFFF0, "outside of the data area"),
        (56, "Q", 1 << 40, "outside of the data area"),
        (56, "Q", 0xFFFFFFFFFFFFFFFF, "outside of the data area"),
    ],
)
def test_an_entry_that_contradicts_itself(at: int, form: str, value: int, why: str) -> None:
    rig = Rig(KernelRing())
    rig.kernel.send(read_10(0, 1), 512)
    struct.pack_into(f"={form}", rig.kernel.area, entry_at(rig.kernel) + at, value)
    before = bytes(rig.kernel.area)
    for _ in range(2):
        with pytest.raises(TornRingError, match=why):
            rig.device.run()
    assert bytes(rig.kernel.area) == before


def test_more_contradictions() -> None:
    rig = Rig(KernelRing())
    rig.kernel.notify(1, [1])
    struct.pack_into("=I", rig.kernel.area, RING_AT + 12, 0xFFFFFFFF)
    with pytest.raises(TornRingError, match="4294967295 ids"):
        rig.ring.take()
    rig = Rig(KernelRing())
    rig.hold()
    rig.kernel.send(FLUSH)
    rig.kernel.next_id = 1
    rig.kernel.send(FLUSH)
    with pytest.raises(TornRingError, match="two slots"):
        rig.device.run()
    for head in (2048, 4, 12, 0xFFFFFFFF):
        rig.kernel.head = head
        with pytest.raises(TornRingError):
            rig.device.run()
    rig = Rig(KernelRing())
    rig.kernel.free -= {1}
    rig.kernel.send(read_10(0, 16), 2 * PAGE)
    struct.pack_into("=Q", rig.kernel.area, RING_AT + 56, 100)
    with pytest.raises(TornRingError, match="before the last"):
        rig.ring.take()


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    hits=st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_hostile_bytes_are_served_or_refused(seed: int, hits: list[tuple[int, int]]) -> None:
    kernel = KernelRing(1024, pages=16, choose=random.Random(seed).choice)
    for cdb, length in ((read_10(0, 24), 3 * PAGE), (READY, 0), (write_10(0, 1), 512)):
        kernel.send(cdb, length)
    kernel.notify(5, [1, 2])
    for at, value in hits:
        kernel.area[at % kernel.data_at] = value
    mailbox = bytes(kernel.area[:64])
    try:
        judge(kernel.view)
        rig = Rig(kernel)
        rig.hold()
        for _ in range(3):
            rig.device.run()
            while rig.lun.held:
                rig.finish(-1)
    except TcmuError:
        pass
    assert kernel.area[:64] == mailbox  # the kernel's own part of the mailbox


def test_the_kernel_part_finds_mistakes() -> None:
    rig = Rig(KernelRing())
    rig.kernel.send(READY)
    command = rig.ring.take()
    assert isinstance(command, RingCommand)
    command.end(Status.BUSY)
    struct.pack_into("=H", rig.kernel.area, RING_AT + 4, 99)
    with pytest.raises(RingBrokenError):
        rig.kernel.collect()
    assert COMMAND_BYTES == 112
