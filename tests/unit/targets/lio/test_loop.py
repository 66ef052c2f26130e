"""The loop that serves devices inside of its wait: still a loop, and fair to everything else."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from targets.lio.alarm import Alarm
from targets.lio.loop import DirectLoop


def run(main: Callable[[DirectLoop], Coroutine[Any, Any, None]]) -> None:
    async def on_it() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DirectLoop)
        await main(loop)

    with asyncio.Runner(loop_factory=DirectLoop) as runner:
        runner.run(on_it())


@contextmanager
def event() -> Iterator[int]:
    """Like a uio device: it becomes readable at each announcement."""
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is looked at is the loop itself
            await asyncio.sleep(0.001)


def test_sockets_processes_threads_and_timers_work() -> None:
    async def main(loop: DirectLoop) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        data = b"x" * 50_000 + b"\n"
        writer.write(data)
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()
        server.close()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        assert await process.wait() == 0
        assert await asyncio.to_thread(lambda: 3) == 3
        began_s = time.monotonic()
        await asyncio.sleep(0.02)
        assert time.monotonic() - began_s >= 0.02
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await loop.create_future()

    run(main)


def test_each_announcement_is_heard_without_being_read() -> None:
    async def main(loop: DirectLoop) -> None:
        heard: list[int] = []
        with event() as fd:
            os.eventfd_write(fd, 1)  # before it is watched
            loop.serve(fd, heard.append)
            for count in (1, 2, 3):
                await until(lambda count=count: len(heard) == count)  # type: ignore[misc]
                os.eventfd_write(fd, 1)
            await until(lambda: len(heard) == 4)
            loop.unserve(fd)
            os.eventfd_write(fd, 1)
            await asyncio.sleep(0.01)
            assert len(heard) == 4
            loop.unserve(fd)  # is fine

    run(main)


def test_a_device_that_never_rests_starves_nobody() -> None:
    async def main(loop: DirectLoop) -> None:
        heard = 0
        with event() as fd:

            def busy(_events: int) -> None:
                nonlocal heard
                heard += 1
                os.eventfd_write(fd, 1)

            loop.serve(fd, busy)
            os.eventfd_write(fd, 1)
            late: list[float] = []
            for _ in range(20):
                began_s = time.monotonic()
                await asyncio.sleep(0.005)
                late.append(time.monotonic() - began_s - 0.005)
            loop.unserve(fd)
        assert heard > 1000
        assert sorted(late)[10] < 0.1

    run(main)


def test_what_a_device_schedules_runs_before_its_next_announcement() -> None:
    async def main(loop: DirectLoop) -> None:
        order: list[str] = []
        with event() as fd:

            def announced(_events: int) -> None:
                order.append("device")
                if order.count("device") < 3:
                    os.eventfd_write(fd, 1)
                    loop.call_soon(order.append, "scheduled")

            loop.serve(fd, announced)
            os.eventfd_write(fd, 1)
            await until(lambda: order.count("device") == 3)
            loop.unserve(fd)
        assert order == ["device", "scheduled", "device", "scheduled", "device"]

    run(main)


def test_a_timer_that_a_device_sets_is_not_waited_past() -> None:
    async def main(loop: DirectLoop) -> None:
        rung, rings = asyncio.Event(), list[asyncio.TimerHandle]()
        with event() as fd:
            loop.serve(fd, lambda _events: rings.append(loop.call_later(0.01, rung.set)))
            never = loop.call_later(3600, rung.set)
            await asyncio.sleep(0)  # the wait is for that one now
            threading.Timer(0.05, os.eventfd_write, (fd, 1)).start()
            async with asyncio.timeout(30):
                await rung.wait()
            never.cancel()
            loop.unserve(fd)

    run(main)


def test_a_device_is_served_within_one_wait() -> None:
    """Nothing of the loop's own is run for an announcement."""

    async def main(loop: DirectLoop) -> None:
        turns = heard = 0
        select = loop._direct_selector.select

        def counted(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            nonlocal turns
            turns += 1
            return select(timeout)

        loop._direct_selector.select = counted  # type: ignore[method-assign]
        done = loop.create_future()
        with event() as fd:

            def announced(_events: int) -> None:
                nonlocal heard, turns
                heard += 1
                if heard == 1:
                    turns = 0
                if heard == 200:
                    done.set_result(turns)
                else:
                    os.eventfd_write(fd, 1)

            loop.serve(fd, announced)
            os.eventfd_write(fd, 1)
            assert await done == 0
            loop.unserve(fd)

    run(main)


def test_an_alarm_rings_once_and_never_early() -> None:
    alarm = Alarm()
    try:
        began_s = time.monotonic()
        alarm.ring_in(3600)
        alarm.ring_in(0.02)
        select.select([alarm.fd], [], [], 30)
        assert time.monotonic() - began_s >= 0.02
        assert os.read(alarm.fd, 8) == (1).to_bytes(8, sys.byteorder)
        with pytest.raises(BlockingIOError):
            os.read(alarm.fd, 8)
        alarm.ring_in(1e-12)  # as soon as there is
        select.select([alarm.fd], [], [], 30)
        os.read(alarm.fd, 8)
        with pytest.raises(OSError, match="Invalid argument"):
            alarm.ring_in(-1)
    finally:
        alarm.close()


def test_a_mistake_in_one_device_is_told_and_ends_nothing() -> None:
    async def main(loop: DirectLoop) -> None:
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        with event() as fd:

            def wrong(_events: int) -> None:
                raise RuntimeError("a mistake")

            loop.serve(fd, wrong)
            os.eventfd_write(fd, 1)
            await until(lambda: bool(told))
            loop.unserve(fd)
        assert str(told[0]["exception"]) == "a mistake"

    run(main)
