"""The thread that talks to the kernel: one call at a time, and calls that never come back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from targets.lio.worker import StuckError, Worker


async def test_calls_run_one_after_the_other() -> None:
    worker = Worker()
    running = 0
    most = 0

    def call() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1
        return threading.get_ident()

    threads = await asyncio.gather(*(worker.run("a call", call, 5.0) for _ in range(20)))
    assert most == 1
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    worker.close()


async def test_what_a_call_raises_is_raised() -> None:
    worker = Worker()

    def call() -> None:
        raise OSError(5, "no")

    with pytest.raises(OSError, match="no"):
        await worker.run("a call", call, 5.0)
    assert await worker.run("another", lambda: 7, 5.0) == 7
    worker.close()


async def test_a_call_that_hangs_is_named_and_holds_up_the_next() -> None:
    worker = Worker()
    back = threading.Event()
    with pytest.raises(StuckError, match=r"0\.05 s from: deleting a portal"):
        await worker.run("deleting a portal", back.wait, 0.05)
    with pytest.raises(StuckError, match="deleting a portal"):
        await worker.run("another", lambda: None, 0.05)
    waiting = asyncio.create_task(worker.run("a third", lambda: 3, 5.0))
    back.set()
    assert await waiting == 3
    worker.close()


async def test_one_that_gives_up_leaves_the_thread_to_others() -> None:
    worker = Worker()
    back = threading.Event()
    task = asyncio.create_task(worker.run("slow", back.wait, 5.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    back.set()
    assert await worker.run("next", lambda: 1, 5.0) == 1
    worker.close()
