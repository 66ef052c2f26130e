"""Worker threads for what would stop the loop: fsync and cold reads.

Owns the thread pool. Hands each outcome back on the loop's thread, without a Future or Task
a call. Must be closed after everything that uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class ThreadOffload:
    """An `Offload` over a small thread pool; callers bound what they have in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int = 8) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="offload")

    def __call__(
        self, work: Callable[[], None], ended: Callable[[BaseException | None], None]
    ) -> None:
        """Run `work` in a thread, then `ended` on the loop with what it raised, or None."""
        self._pool.submit(self._run, work, ended)

    def _run(self, work: Callable[[], None], ended: Callable[[BaseException | None], None]) -> None:
        outcome: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (handed to the owner, whatever it is)
            outcome = error
        self._loop.call_soon_threadsafe(ended, outcome)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown(wait=True)
