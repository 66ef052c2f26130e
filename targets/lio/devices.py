"""Taking a device into service, out of it, and over from a predecessor.

Owns the order of block, reset, open, judge, serve and unblock (see `takeover`). A shell. Must
not plan. Fails with `TcmuError` or OSError, with nothing served; `StuckError` from the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from targets.lio.layout import TcmuError
from targets.lio.machine import Machine
from targets.lio.offered import Found, Offered
from targets.lio.serving import Serving
from targets.lio.takeover import Course, judge
from targets.lio.worker import Worker

log = logging.getLogger(__name__)

ACTION_WITHIN_S = 20.0
DRAIN_WITHIN_S = 10.0


class Devices:
    """Serves devices of one machine."""

    def __init__(self, machine: Machine, worker: Worker, changed: Callable[[], None]) -> None:
        """`changed` is called when a device was lost."""
        self._machine = machine
        self._worker = worker
        self._changed = changed

    async def serve(self, offered: Offered, found: Found) -> None:
        """Open a device and serve it, commands of a predecessor included."""
        assert offered.serving is None
        uio = self._machine.open(found.node)
        try:
            # A predecessor may have answered without having said so.
            uio.poke()
            verdict = judge(uio.area)
            if offered.lost or verdict.course is Course.RESET:
                log.warning(
                    "target %s: the ring of %s is reset: %s",
                    *(offered.iqn, found.path, verdict.reason or "it was lost"),
                )
                await self.reset(found.path)
                verdict = judge(uio.area)
            elif verdict.course is Course.ANSWER:
                left = len(verdict.fates)
                log.info("target %s: %d commands were left behind", offered.iqn, left)
            # No wait between the judgement and this.
            serving = Serving(uio, offered.server, self._lost(offered), verdict.fates)
        except BaseException:
            uio.close()
            raise
        offered.serving, offered.lost, offered.blocked = serving, False, True
        await self.unblock(offered, found)

    async def unblock(self, offered: Offered, found: Found) -> None:
        """Have the kernel pass commands on, whoever has told it not to."""
        await self._act(found.path, "block_dev", "0", unless="unblocked")
        offered.blocked = False

    def _lost(self, offered: Offered) -> Callable[[str], None]:
        def lost(reason: str) -> None:
            log.warning("target %s: its device is lost: %s", offered.iqn, reason)
            offered.lost = True
            self._changed()

        return lost

    async def free(self, found: Found) -> None:
        """Let go what waits at a device that nobody will serve: its target can't go before.

        Raises `UioBusyError` when another process serves it.
        """
        uio = self._machine.open(found.node)
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

    async def block(self, path: str) -> None:
        """Send initiators waiting.

        They keep their sessions. They are told BUSY and repeat, for as long as they like: Linux for
        three minutes.
        """
        await self._act(path, "block_dev", "1", unless="blocked")

    async def drain(self, offered: Offered) -> None:
        """Answer what is under way, and let go of the device; what takes too long is left.

        A successor answers that: the mapping stays until nothing writes into it, which is at the
        end of the process at the latest.
        """
        serving, offered.serving = offered.serving, None
        if serving is None:
            return
        try:
            async with asyncio.timeout(DRAIN_WITHIN_S):
                await serving.drain()
        except TimeoutError:
            left = serving.pending
            log.warning("target %s: %d commands are still under way", offered.iqn, left)
        await serving.close(within_s=0)

    async def release(self, offered: Offered) -> None:
        """Stop serving; returns when nothing writes into its memory any more.

        Raises `TcmuError` where that takes too long: the device is to be released again.
        """
        serving = offered.serving
        if serving is None:
            return
        if not await serving.close(within_s=DRAIN_WITHIN_S):
            raise TcmuError(
                f"{serving.pending} commands of {offered.iqn} are still under way; "
                "look at the disk of its volume"
            )
        offered.serving = None

    async def _act(self, path: str, name: str, value: str, *, unless: str = "") -> None:
        act = partial(self._machine.act, path, name, value, unless)
        await self._worker.run(f"writing {value} to {path}/action/{name}", act, ACTION_WITHIN_S)
