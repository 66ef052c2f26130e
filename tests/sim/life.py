"""The life of a simulated world: its loop in force, its end in time, nothing left behind.

Owns the frame around a story. Must not know what is told in it. What goes wrong is told to the
oracle: time that stands still, a story without an end, an exception that nobody took.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tests.sim.loop import Stuck, VirtualLoop
from tests.sim.oracle import Oracle

LIMIT_S = 5000.0
LOOK_EVERY_S = 0.25

Story = Callable[[], Coroutine[Any, Any, None]]


def uncaught(message: str, error: BaseException | None) -> str:
    """An exception that reached the loop, with where it came from."""
    if error is None:
        return message
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[::-1])
    return f"{message}: {type(error).__name__}: {error} at {where}"


def live(loop: VirtualLoop, oracle: Oracle, story: Story) -> None:
    """Tell a story to its end, or until a law is broken."""
    with _in_force(loop, oracle):
        try:
            loop.run_until_complete(_told(loop, oracle, story))
        except Stuck as error:
            oracle.broken("STUCK", str(error))


@contextmanager
def _in_force(loop: VirtualLoop, oracle: Oracle) -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    asyncio.set_event_loop(loop)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        _kill(loop, oracle)
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        asyncio.set_event_loop(None)
        if collecting:
            gc.enable()


async def _told(loop: VirtualLoop, oracle: Oracle, story: Story) -> None:
    telling = asyncio.ensure_future(story())
    while not telling.done() and not oracle.broke and loop.time() < LIMIT_S:
        await asyncio.wait([telling], timeout=LOOK_EVERY_S)
    if telling.done():
        telling.result()
        return
    if not oracle.broke:
        oracle.broken("STUCK", f"not over after {LIMIT_S:.0f} s")
    _kill(loop, oracle)
    telling.cancel()
    await asyncio.wait([telling], timeout=1)


def _kill(loop: VirtualLoop, oracle: Oracle) -> None:
    for machine in oracle.machines.values():
        if machine.epoch is not None:
            loop.kill(machine.epoch)
