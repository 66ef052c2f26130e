"""A ring on the event loop, on an ordinary one and on one that serves devices directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from targets.lio.loop import DirectLoop
from targets.lio.serving import MAX_POKES, Serving
from targets.scsi.device import DeviceServer
from tests.unit.targets.lio.machine import StandInUio
from tests.unit.targets.lio.rig import read_10, write_10
from tests.unit.targets.memory import MemoryLun

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, DirectLoop])


class World:
    def __init__(self) -> None:
        self.uio = StandInUio()
        self.kernel = self.uio.kernel
        self.lun = MemoryLun()
        self.lost: list[str] = []
        self.serving = Serving(self.uio, DeviceServer(self.lun), self.lost.append)

    def send(self, blocks: int = 8) -> int:
        cmd_id = self.kernel.send(read_10(0, blocks), blocks * 512)
        assert cmd_id is not None
        return cmd_id

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 - the loop's own turns are what is looked at
                await asyncio.sleep(0)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    if not made.uio.closes:
        await made.serving.close()


def run(loop: Loop, story: Callable[[World], object]) -> None:
    async def told() -> None:
        async with world() as made:
            result = story(made)
            assert asyncio.iscoroutine(result)
            await result

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(told())


@LOOPS
def test_what_was_there_before_is_served(loop: Loop) -> None:
    async def story(it: World) -> None:
        cmd_id = it.send()
        await it.until(lambda: cmd_id in it.kernel.answers)

    run(loop, story)


@LOOPS
def test_a_batch_costs_one_poke(loop: Loop) -> None:
    async def story(it: World) -> None:
        await it.until(lambda: it.kernel.tail == it.kernel.head)
        pokes = it.uio.pokes
        ids = [it.send() for _ in range(8)]
        it.uio.announce()
        await it.until(lambda: set(ids) <= set(it.kernel.answers))
        assert it.uio.pokes == pokes + 1

    run(loop, story)


@LOOPS
def test_what_comes_at_a_poke_costs_no_wait(loop: Loop) -> None:
    """It is answered although nobody announces it; what comes without end has to wait."""

    async def story(it: World) -> None:
        await it.until(lambda: it.kernel.tail == it.kernel.head)
        ids = [it.send()]
        poke = it.uio.poke

        def poked() -> None:
            poke()
            if len(ids) < 100:
                ids.append(it.send())

        it.uio.poke = poked  # type: ignore[method-assign]
        it.uio.announce()
        await it.until(lambda: len(it.kernel.answers) >= 1)
        assert MAX_POKES <= len(it.kernel.answers) < 100
        await it.until(lambda: it.uio.pokes > MAX_POKES)
        it.uio.announce()
        while len(ids) < 100:
            await asyncio.sleep(0)
            it.uio.announce()
        await it.until(lambda: set(ids) <= set(it.kernel.answers))

    run(loop, story)


@LOOPS
def test_what_ends_later_is_collected_once_a_turn(loop: Loop) -> None:
    async def story(it: World) -> None:
        it.lun.held = []
        ids = [it.send() for _ in range(6)]
        it.uio.announce()
        await it.until(lambda: it.serving.pending == 6)
        assert not it.kernel.answers
        pokes = it.uio.pokes
        it.lun.release()
        await it.until(lambda: set(ids) <= set(it.kernel.answers))
        assert it.uio.pokes == pokes + 1

    run(loop, story)


@LOOPS
def test_draining_waits_for_the_last_answer(loop: Loop) -> None:
    async def story(it: World) -> None:
        it.lun.held = []
        ids = [it.send(), it.send()]
        it.uio.announce()
        await it.until(lambda: it.serving.pending == 2)
        draining = asyncio.create_task(it.serving.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        first, second = it.lun.held
        it.lun.held = None
        first()
        second()
        it.send()  # its batch takes the poke of the two
        it.uio.announce()
        async with asyncio.timeout(5):
            await draining
        assert set(ids) <= set(it.kernel.answers)

    run(loop, story)


@LOOPS
def test_the_mapping_is_kept_until_nothing_writes_into_it(loop: Loop) -> None:
    async def story(it: World) -> None:
        it.lun.held = []
        cmd_id = it.kernel.send(write_10(0, 8), out=bytes(4096))
        it.uio.announce()
        await it.until(lambda: it.serving.pending == 1)
        closing = asyncio.create_task(it.serving.close())
        await asyncio.sleep(0.01)
        assert it.uio.closes == 0
        it.lun.release()
        await closing
        assert it.uio.closes == 1
        assert cmd_id not in it.kernel.answers  # it was detached: a successor answers
        assert it.lost == []

    run(loop, story)


@LOOPS
def test_a_device_that_goes_is_told_once(loop: Loop) -> None:
    async def story(it: World) -> None:
        it.lun.held = []
        it.send()
        it.uio.announce()
        await it.until(lambda: it.serving.pending == 1)
        it.uio.gone = True
        it.serving.look()
        it.serving.look()
        it.lun.release()
        await it.until(lambda: bool(it.lost))
        await asyncio.sleep(0.01)
        assert len(it.lost) == 1
        assert "gone" in it.lost[0]

    run(loop, story)


@LOOPS
def test_a_torn_ring_is_told(loop: Loop) -> None:
    async def story(it: World) -> None:
        it.kernel.head = it.kernel.head + 12
        it.uio.announce()
        await it.until(lambda: bool(it.lost))
        assert "cmd_head" in it.lost[0] or "entry" in it.lost[0]

    run(loop, story)


@LOOPS
def test_behind_a_mistake_of_ours_others_are_still_answered(loop: Loop) -> None:
    async def story(it: World) -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        good = it.send()
        bad = it.send(blocks=16)
        read = it.lun.read

        def breaks(offset_bytes: int, into: memoryview, done: object) -> None:
            if len(into) != 4096:
                raise RuntimeError("a mistake")
            read(offset_bytes, into, done)  # type: ignore[arg-type]

        it.lun.read = breaks  # type: ignore[method-assign]
        it.uio.announce()
        await it.until(lambda: bool(told) and good in it.kernel.answers)
        later = it.send()
        it.uio.announce()
        await it.until(lambda: later in it.kernel.answers)
        assert bad not in it.kernel.answers
        # So that it can be closed.
        it.serving._ring.pending[bad].good()

    run(loop, story)
