"""The one thread that talks to configfs.

Owns the thread, and the rule that one thing is done at a time. A shell. Must not know what it
carries out. Fails with `StuckError` when a call doesn't come back in time: a write to configfs
can sleep in the kernel, where nothing can end it. The thread is a daemon, so it never keeps the
process from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class StuckError(Exception):
    """The kernel has not come back from a call."""


class Worker:
    """Runs blocking calls one after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._running: asyncio.Future[Any] | None = None
        self._what = ""
        self._thread = threading.Thread(target=self._work, name="lio", daemon=True)
        self._thread.start()

    async def run(self, what: str, call: Callable[[], _T], timeout_s: float) -> _T:
        """Do `call` in the thread; raises `StuckError`, and what the call raises.

        While an earlier call hangs, each new one waits for it within its own time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._running is not None:
                    await asyncio.wait([self._running])
                future: asyncio.Future[_T] = self._loop.create_future()
                self._running, self._what = future, what
                future.add_done_callback(self._done)
                self._jobs.put((call, future))
                return await asyncio.shield(future)
        except TimeoutError:
            stuck = f"the kernel has not come back for {timeout_s:g} s from: {self._what}"
            raise StuckError(stuck) from None

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._running = None
        if not future.cancelled():
            future.exception()  # it may come when nobody waits any more

    def close(self) -> None:
        """Let the thread end behind what it does now."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, future = job
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                self._tell(future, None, error)
            else:
                self._tell(future, result, None)

    def _tell(
        self, future: asyncio.Future[Any], result: object, error: BaseException | None
    ) -> None:
        def told() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(told)
        except RuntimeError:  # the loop has gone while the kernel took its time
            return
