"""Worker threads for what would stop the loop: fsync, cold reads, shared extents.

Owns the threads, made when they are needed. Which call has one is `controller.volume.lanes`'s to
say. Hands each outcome back on the loop's thread, without a Future or Task a call. Must be closed
after everything that uses it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from controller.volume.file import Offload
from controller.volume.lanes import Lane, Lanes

Ended = Callable[[BaseException | None], None]
Call = tuple[Callable[[], None], Ended]

SPARE_THREADS = 14
"""Beyond one a store: a store that is busy alone gets eight in all."""


class ThreadOffload:
    """Gives each store an `Offload` of its own; callers bound what they have in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop, spare: int = SPARE_THREADS) -> None:
        self._loop = loop
        self._lanes: Lanes[Call] = Lanes(spare)
        self._lock = threading.Lock()
        # It makes a thread where none is idle. The lanes bound them: one a store, and the spare.
        self._pool = ThreadPoolExecutor(sys.maxsize, thread_name_prefix="offload")

    def lane(self) -> Offload:
        """An `Offload` for one store: what hangs there holds up nobody else."""
        return partial(self._enter, Lane())

    def _enter(self, lane: Lane[Call], work: Callable[[], None], ended: Ended) -> None:
        """Run `work` in a thread, then `ended` on the loop with what it raised, or None."""
        call = (work, ended)
        with self._lock:
            now = self._lanes.enter(lane, call)
        if now:
            self._pool.submit(self._run, lane, call)

    def _run(self, lane: Lane[Call], call: Call) -> None:
        following: tuple[Lane[Call], Call] | None = (lane, call)
        while following is not None:
            lane, (work, ended) = following
            outcome: BaseException | None = None
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (handed to the owner, whatever it is)
                outcome = error
            self._loop.call_soon_threadsafe(ended, outcome)
            # Nothing of an ended call may live on in an idle thread.
            del work, ended, outcome
            with self._lock:
                following = self._lanes.leave(lane)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown(wait=True)
