"""A daemon is killed between any two stores; its successor answers what was left."""

from __future__ import annotations

import copy
import random
import struct
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.lio.layout import TmrKind
from targets.lio.ring import Ring
from targets.lio.takeover import ASK_AGAIN, RUN_AGAIN, Course, Fate, Verdict, fate_of, judge
from targets.scsi.cdb import Op
from targets.scsi.device import HANDLERS
from targets.scsi.sense import Status
from tests.unit.targets.lio.kernel import RING_AT, KernelRing
from tests.unit.targets.lio.rig import FLUSH, LUN_BYTES, READY, Rig, read_10, write_10

pytestmark = pytest.mark.plain

STATUS = {Fate.BUSY: Status.BUSY, Fate.ABORTED: Status.TASK_ABORTED, Fate.RUN: Status.GOOD}


def test_every_command_has_its_place() -> None:
    """A command that is added to the device server has to be judged here, too."""
    assert not RUN_AGAIN & ASK_AGAIN
    assert set(HANDLERS) | {Op.REPORT_LUNS} == RUN_AGAIN | ASK_AGAIN


@pytest.mark.parametrize("op", sorted(Op))
def test_fates(op: Op) -> None:
    assert fate_of(op, aborted=True) is Fate.ABORTED
    assert fate_of(op, aborted=False) is (Fate.RUN if op in RUN_AGAIN else Fate.BUSY)
    assert fate_of(0x89, aborted=False) is Fate.BUSY  # COMPARE AND WRITE


def test_commands_that_are_run_again_change_nothing() -> None:
    rig = Rig(KernelRing(8192))
    rig.lun.data[:] = data = random.Random(1).randbytes(LUN_BYTES)
    for op in RUN_AGAIN:
        rig.ask(bytes((op,)) + bytes(15), 512)
    assert rig.lun.data == data
    assert not rig.server.unit.software_write_protect
    assert {each.split()[0] for each in rig.lun.log} <= {"read", "flush"}


def test_nothing_left() -> None:
    kernel = KernelRing(start=64)
    assert judge(kernel.view) == Verdict(Course.SERVE)
    kernel.notify(TmrKind.LUN_RESET, [])
    assert judge(kernel.view) == Verdict(Course.SERVE)


def test_what_nobody_has_looked_at() -> None:
    kernel = KernelRing()
    kernel.send(read_10(0, 1), 512)
    kernel.send(write_10(0, 1), out=bytes(512))
    kernel.send(READY)
    kernel.send(write_10(1, 1), out=bytes(512))
    kernel.send(READY, op=6)
    kernel.notify(TmrKind.ABORT_TASK, [4, 99])
    before = bytes(kernel.area)
    fates = {1: Fate.RUN, 2: Fate.BUSY, 3: Fate.RUN, 4: Fate.ABORTED}
    assert judge(kernel.view) == Verdict(Course.ANSWER, fates)
    assert bytes(kernel.area) == before


def test_a_write_that_was_overtaken_is_not_carried_out() -> None:
    """A slow write expired, newer data was acknowledged in its place, and the daemon died."""
    kernel = KernelRing()
    first = Rig(kernel)
    first.hold()
    old = kernel.send(write_10(0, 1), out=b"o" * 512)
    first.device.run()
    first.lun.held = None
    first.ask(write_10(0, 1), out=b"n" * 512)
    second = Rig(kernel, first.lun, judge(kernel.view).fates)
    second.device.run()
    assert second.poke() == [old]
    assert kernel.answers[old or 0].status == Status.BUSY
    assert first.lun.data[:512] == b"n" * 512


@pytest.mark.parametrize(
    ("at", "form", "value", "why"),
    [
        (0, "I", 3, "an entry of 0 bytes"),
        (8, "I", 900, "iovecs"),
        (11, "B", 0xFF, "never finished"),
        (24, "Q", 1, "a CDB at 1"),
    ],
)
def test_what_cannot_be_trusted_is_reset(at: int, form: str, value: int, why: str) -> None:
    kernel = KernelRing()
    kernel.send(read_10(0, 1), 512)
    struct.pack_into(f"={form}", kernel.area, RING_AT + at, value)
    verdict = judge(kernel.view)
    assert verdict.course is Course.RESET
    assert why in verdict.reason
    assert verdict.fates == {}


def test_more_that_cannot_be_trusted() -> None:
    kernel = KernelRing()
    kernel.send(READY)
    kernel.next_id = 1
    kernel.send(READY)
    assert "two slots" in judge(kernel.view).reason
    kernel = KernelRing()
    kernel.notify(1, [1])
    struct.pack_into("=I", kernel.area, RING_AT + 12, 1 << 31)
    assert judge(kernel.view).course is Course.RESET
    for at, value in ((12, 9000), (64, 9000), (64, 4)):
        kernel = KernelRing()
        struct.pack_into("=I", kernel.area, at, value)
        assert judge(kernel.view).course is Course.RESET


# --------------------------------------------------------------------- killed anywhere


def snapshots(kernel: KernelRing, act: Callable[[], object]) -> Iterator[bytes]:
    """The shared memory before each line of the ring's code that `act` goes through."""
    found: list[bytes] = []
    file = Ring.complete.__code__.co_filename

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            found.append(bytes(kernel.area))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    found.append(bytes(kernel.area))
    yield from dict.fromkeys(found)  # each state once


def succeed(kernel: KernelRing, area: bytes) -> tuple[Course, int]:
    """A successor on a kernel that has seen `area`; the kernel must get what it waits for."""
    later = copy.deepcopy(kernel)
    later.area[:] = area
    later.collect()
    verdict = judge(later.view)
    if verdict.course is Course.RESET:
        return verdict.course, len(later.out)
    waiting = set(later.out)
    assert set(verdict.fates) == waiting
    writes = {each for each, sent in later.out.items() if sent.writes}
    rig = Rig(later, fates=verdict.fates)
    rig.device.run()
    assert set(rig.poke()) == waiting
    assert later.tail == later.head
    for each in waiting:
        assert later.answers[each].status == STATUS[verdict.fates[each]]
        assert not (each in writes and verdict.fates[each] is Fate.RUN)
    assert rig.lun.data == bytes(LUN_BYTES)
    assert later.unused() == []
    assert rig.ask(READY).status == Status.GOOD
    return verdict.course, len(waiting)


SENDS: dict[str, Callable[[KernelRing], object]] = {
    "read": lambda kernel: kernel.send(read_10(0, 1), 512),
    "long": lambda kernel: kernel.send(read_10(0, 64), 32768),
    "write": lambda kernel: kernel.send(write_10(8, 1), out=b"w" * 512),
    "flush": lambda kernel: kernel.send(FLUSH),
    "notify": lambda kernel: kernel.notify(TmrKind.ABORT_TASK, [2]),
}


@settings(max_examples=60, deadline=None)
@given(
    sends=st.lists(st.sampled_from(sorted(SENDS)), min_size=1, max_size=6),
    order=st.lists(st.integers(0, 100), max_size=6),
    start=st.integers(0, 99),
    seed=st.integers(0, 1000),
)
def test_killed_between_any_two_stores(
    sends: list[str], order: list[int], start: int, seed: int
) -> None:
    kernel = KernelRing(2048, start=start * 8, choose=random.Random(seed).choice)
    rig = Rig(kernel)
    rig.hold()
    for name in sends:
        SENDS[name](kernel)
    rig.device.run()
    held = rig.lun.held
    assert held is not None
    for pick in order[: len(held)]:
        for area in snapshots(kernel, held.pop(pick % len(held))):
            course, left = succeed(kernel, area)
            assert course is not Course.RESET or left
        assert succeed(kernel, bytes(kernel.area))[0] is not Course.RESET


def test_a_kill_meets_every_course() -> None:
    """The test above sees a slot that is being answered, and slots that are whole."""
    kernel = KernelRing(choose=random.Random(1).choice)
    rig = Rig(kernel)
    rig.hold()
    for name in ("long", "read", "flush"):
        SENDS[name](kernel)
    rig.device.run()
    assert rig.lun.held is not None
    found = [succeed(kernel, area) for area in snapshots(kernel, rig.lun.held.pop())]
    assert {course for course, _ in found} == {Course.ANSWER, Course.RESET}
    assert {left for course, left in found if course is Course.ANSWER} == {3, 2}
    fates = judge(kernel.view).fates
    assert fates == {1: Fate.BUSY, 2: Fate.RUN}  # the long read has lost its request
