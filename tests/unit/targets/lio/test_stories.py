"""Any story on a ring: every offset, every order of answers, whole data areas compared."""

from __future__ import annotations

import random
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.lio.layout import TmrKind
from targets.lio.takeover import Course, judge
from targets.scsi.inquiry import standard_data
from tests.unit.targets.lio.kernel import KernelRing
from tests.unit.targets.lio.rig import (
    FLUSH,
    LUN_BYTES,
    READY,
    Rig,
    inquiry,
    pattern,
    read_10,
    write_10,
)
from tests.unit.targets.memory import MemoryLun

pytestmark = pytest.mark.plain


# --------------------------------------------------------------------- everywhere, anyhow


@pytest.mark.parametrize("ring_bytes", [1000, 1024, 1528])
def test_wrap_at_every_offset(ring_bytes: int) -> None:
    data = pattern(LUN_BYTES, 6)
    for start in range(0, ring_bytes, 8):
        rig = Rig(KernelRing(ring_bytes, start=start))
        rig.lun.data[:] = data
        rig.hold()
        ids = [rig.kernel.send(read_10(1, 1), 512), rig.kernel.send(READY)]
        rig.kernel.notify(TmrKind.ABORT_TASK, [1, 2, 3])
        ids.append(rig.kernel.send(write_10(9, 2), out=data[:1024]))
        rig.device.run()
        assert rig.poke() == [ids[1]]
        rig.finish(1)
        rig.finish(0)
        assert rig.poke() == [ids[2], ids[0]]
        assert rig.kernel.answers[ids[0] or 0].data == data[512:1024]
        assert rig.lun.data == data[: 9 * 512] + data[:1024] + data[11 * 512 :]
        assert rig.kernel.tail == rig.kernel.head
        assert rig.kernel.unused() == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 60), st.integers(0, 40), st.integers(0, 20480)),
        st.tuples(st.just("write"), st.integers(0, 60), st.integers(0, 40), st.integers(0, 20480)),
        st.tuples(st.just("whole"), st.integers(0, 60), st.integers(1, 40)),
        st.tuples(st.just("inquiry"), st.integers(0, 300), st.integers(0, 300)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("notify"), st.integers(0, 12)),
        st.tuples(st.just("run")),
        st.tuples(st.just("end"), st.integers(0, 1000)),
        st.tuples(st.just("poke")),
    ),
    max_size=120,
)


IDENTITY = standard_data(MemoryLun().identity)


class Story:
    """Steps on a rig, beside a model of what the host has to get."""

    def __init__(self, kernel: KernelRing, seed: int) -> None:
        self.rig = Rig(kernel)
        self.rig.lun.data[:] = pattern(LUN_BYTES, seed)
        self.rig.hold()
        self.model = bytearray(self.rig.lun.data)
        self.untaken: deque[tuple[int | None, bytes, int, bytes | None]] = deque()
        self.wanted: dict[int, bytes] = {}
        self.seen: set[int] = set()
        self.seed = seed

    def send(self, cdb: bytes, length: int = 0, out: bytes | None = None) -> None:
        cmd_id = self.rig.kernel.send(cdb, length, out)
        if cmd_id is not None:
            self.untaken.append((cmd_id, cdb, length, out))

    def step(self, name: str, *numbers: int) -> None:
        kernel = self.rig.kernel
        if name == "read":
            self.send(read_10(*numbers[:2]), numbers[2])
        elif name in {"write", "whole"}:
            lba, blocks, length = (*numbers, numbers[1] * 512)[:3]
            self.seed += 1
            self.send(write_10(lba, blocks), out=pattern(length, self.seed))
        elif name == "inquiry":
            self.send(inquiry(numbers[0]), numbers[1])
        elif name == "flush":
            self.send(FLUSH)
        elif name == "notify":
            kernel.notify(TmrKind.ABORT_TASK_SET, list(range(1, numbers[0])))
        elif name == "run":
            self.run()
        elif name == "end" and self.rig.lun.held:
            self.rig.finish(numbers[0] % len(self.rig.lun.held))
        elif name == "poke":
            self.poke()

    def run(self) -> None:
        """The commands reach the medium in the order of the ring."""
        self.rig.device.run()
        while self.untaken:
            cmd_id, cdb, length, out = self.untaken.popleft()
            lba, blocks = struct.unpack_from(">2xIxH", cdb.ljust(10, b"\0"))
            here = min(blocks * 512, len(out) if out is not None else length)
            at = lba * 512
            data = b""
            if cdb[0] == 0x28:
                data = bytes(self.model[at : at + here]) or bytes(length)
            elif cdb[0] == 0x2A and out is not None:
                self.model[at : at + here // 512 * 512] = out[: here // 512 * 512]
            elif cdb[0] == 0x12:
                expected = min(cdb[3] << 8 | cdb[4], 96, length)
                data = IDENTITY[:expected] or bytes(length)
            assert cmd_id is not None
            self.wanted[cmd_id] = data

    def poke(self) -> None:
        kernel = self.rig.kernel
        for cmd_id in self.rig.poke():
            assert cmd_id not in self.seen
            self.seen.add(cmd_id)
            assert kernel.answers[cmd_id].status == 0
            assert kernel.answers[cmd_id].data == self.wanted[cmd_id]

    def check(self) -> None:
        """What stands in the ring names exactly what the kernel waits for."""
        left = self._left()
        assert set(left) == {*self.rig.ring.pending, *(each[0] for each in self.untaken)}
        assert set(left) <= set(self.rig.kernel.out)
        assert self.rig.kernel.unused() == []

    def _left(self) -> list[int]:
        verdict = judge(self.rig.kernel.view)
        assert verdict.course is not Course.RESET, verdict.reason
        return list(verdict.fates)

    def end(self) -> None:
        self.run()
        while self.rig.lun.held:
            self.rig.finish(self.seed % len(self.rig.lun.held))
        self.poke()
        assert self.rig.kernel.out == {}
        assert self.rig.ring.pending == {}
        assert self.rig.kernel.tail == self.rig.kernel.head
        assert self.rig.kernel.free == set(range(self.rig.kernel.pages))
        assert self.rig.lun.data == self.model
        assert self.rig.kernel.unused() == []


@settings(max_examples=300, deadline=None)
@given(
    steps=STEPS,
    seed=st.integers(0, 1 << 20),
    units=st.integers(100, 400),
    start=st.integers(0, 99),
    scattered=st.booleans(),
)
def test_any_story(
    steps: list[tuple[str, *tuple[int, ...]]], seed: int, units: int, start: int, scattered: bool
) -> None:
    choose = random.Random(seed).choice if scattered else min
    kernel = KernelRing(units * 8, pages=48, start=start * 8, choose=choose)
    story = Story(kernel, seed)
    for step in steps:
        story.step(*step)
        story.check()
    story.end()
