"""Taking a device into service, out of it, and over from a predecessor.

Owns the order of block, reset, open, judge, serve and unblock (see `takeover`). A shell. Must
not plan. Fails with `TcmuError` or OSError, with nothing served; `StuckError` from the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from targets.lio.offered import Found, Offered
from targets.lio.serving import Serving
from targets.lio.takeover import Course, judge
from targets.lio.uio import UioDevice
from targets.lio.worker import Worker

log = logging.getLogger(__name__)

ACTION_WITHIN_S = 20.0
DRAIN_WITHIN_S = 10.0


class Devices:
    """Serves devices of one configfs."""

    def __init__(self, root: Path, worker: Worker, changed: Callable[[], None]) -> None:
        """`changed` is called when a device was lost."""
        self._root = root
        self._worker = worker
        self._changed = changed

    async def serve(self, offered: Offered, found: Found) -> None:
        """Open a device and serve it, commands of a predecessor included."""
        assert offered.serving is None
        uio = UioDevice(found.node)
        try:
            # A predecessor may have answered without having said so.
            uio.poke()
            verdict = judge(uio.area)
            if offered.lost or verdict.course is Course.RESET:
                log.warning(
                    "the ring of %s is reset: %s", found.path, verdict.reason or "it was lost"
                )
                await self.reset(found.path)
                verdict = judge(uio.area)
            elif verdict.course is Course.ANSWER:
                log.info("%s: %d commands were left behind", found.path, len(verdict.fates))
            # No wait between the judgement and this.
            serving = Serving(uio, offered.server, self._lost(offered), verdict.fates)
        except BaseException:
            uio.close()
            raise
        offered.serving, offered.lost = serving, False
        await self._act(found.path, "block_dev", "0", unless="unblocked")

    def _lost(self, offered: Offered) -> Callable[[str], None]:
        def lost(reason: str) -> None:
            log.warning("the device of %s is lost: %s", offered.iqn, reason)
            offered.lost = True
            self._changed()

        return lost

    async def free(self, found: Found) -> None:
        """Let go what waits at a device that nobody will serve: its target can't go before.

        Raises `UioBusyError` when another process serves it.
        """
        uio = UioDevice(found.node)
        try:
            await self.reset(found.path)
        finally:
            uio.close()

    async def reset(self, path: str) -> None:
        """Make the kernel answer BUSY to all that is out, and to what comes.

        Nothing of this process may run on that device.
        """
        await self._act(path, "block_dev", "1", unless="blocked")
        await self._act(path, "reset_ring", "1")

    async def block(self, offered: Offered, path: str) -> None:
        """Send initiators waiting, answer what is under way, and let go of the device.

        Initiators keep their sessions. They are told BUSY and repeat, for as long as they like:
        Linux for three minutes.
        """
        serving = offered.serving
        if serving is None:
            return
        await self._act(path, "block_dev", "1", unless="blocked")
        try:
            async with asyncio.timeout(DRAIN_WITHIN_S):
                await serving.drain()
        except TimeoutError:
            log.warning("%s: %d commands are still under way", offered.iqn, serving.pending)
        await self.release(offered)

    async def release(self, offered: Offered) -> None:
        """Stop serving; returns when nothing writes into its memory any more."""
        serving, offered.serving = offered.serving, None
        if serving is not None and not await serving.close():
            log.debug("the mapping of %s stays until nothing points into it", offered.iqn)

    async def _act(self, path: str, name: str, value: str, *, unless: str = "") -> None:
        file = self._root / path / "action" / name

        def act() -> None:
            if unless and file.read_text().strip() == unless:
                return
            file.write_text(value)

        await self._worker.run(f"writing {value} to {path}/action/{name}", act, ACTION_WITHIN_S)
