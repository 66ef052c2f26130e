"""A TCMU device on the event loop: woken by the kernel, answered in batches.

Owns one open uio device, its ring and their place on the loop. A shell: reads and pokes. Must
not touch configfs. Fails by calling `lost` once with the reason; the owner stops it then.

What is in the ring is taken in the call in which the loop says that it is readable, and answers
that are ready by its end cost one poke. Later ones are collected until the loop's next turn. On a
`DirectLoop` the call comes out of the wait itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from select import EPOLLIN

from targets.lio.device import RingDevice
from targets.lio.layout import TcmuError
from targets.lio.loop import DirectLoop
from targets.lio.ring import Ring
from targets.lio.takeover import Fate
from targets.lio.uio import UioDevice
from targets.scsi.device import DeviceServer

log = logging.getLogger(__name__)

MAX_POKES = 4
"""One after the other, before anything else has its turn."""
Lost = Callable[[str], None]


class Serving:
    """One device that is being served."""

    def __init__(
        self,
        uio: UioDevice,
        server: DeviceServer,
        lost: Lost,
        fates: Mapping[int, Fate] | None = None,
    ) -> None:
        """Serve at once, what was left in the ring included; raises `TcmuError`.

        `uio` is this object's from here on, unless it raises. `lost` may be called later, never
        from here.
        """
        self.uio = uio
        self._lost: Lost | None = lost
        self._loop = asyncio.get_running_loop()
        self._running = False
        self._draining = False
        self._drained = asyncio.Event()
        ring = Ring(uio.area, self._wake)
        self._device = RingDevice(ring, server, dict(fates or {}))
        self._ring = ring
        if isinstance(self._loop, DirectLoop):
            self._loop.serve(uio.fd, self._announced)
        else:
            self._loop.add_reader(uio.fd, self._readable)
        # The kernel may have announced what is there to the predecessor.
        self._loop.call_soon(self.look)

    @property
    def pending(self) -> int:
        """Commands that are under way."""
        return len(self._ring.pending)

    def look(self) -> None:
        """Look whether the device is there, and for commands that nobody has announced."""
        if not self._ring.detached:
            self._readable()

    def _readable(self) -> None:
        try:
            self.uio.clear()
        except OSError as error:
            self._fail(error)
        else:
            self._run()

    def _announced(self, events: int) -> None:
        if events & ~EPOLLIN:
            self._readable()
        else:
            self._run()

    def _run(self) -> None:
        self._running = True
        try:
            self._device.run()
            for _ in range(MAX_POKES):
                if not self._ring.poke_due:
                    break
                self._ring.poked()
                self.uio.poke()
                # What came in the meantime costs no wait.
                self._device.run()
            if self._draining and not (self._ring.pending or self._ring.poke_due):
                self._drained.set()
        except (TcmuError, OSError) as error:
            self._fail(error)
        finally:
            self._running = False
            # Too many in a row, or a mistake of ours came between an answer and its poke.
            if self._ring.poke_due:
                self._loop.call_soon(self._poke)

    def _wake(self) -> None:
        if self._ring.detached:
            self._drained.set()
        elif not self._running:
            self._loop.call_soon(self._poke)

    def _poke(self) -> None:
        ring = self._ring
        if not ring.poke_due or ring.detached:
            return
        ring.poked()
        if not ring.pending:
            self._drained.set()
        try:
            self.uio.poke()
        except OSError as error:
            self._fail(error)

    def _unwatch(self) -> None:
        if isinstance(self._loop, DirectLoop):
            self._loop.unserve(self.uio.fd)
        else:
            self._loop.remove_reader(self.uio.fd)

    def _fail(self, error: Exception) -> None:
        self._unwatch()
        lost, self._lost = self._lost, None
        self._drained.set()
        if lost is not None:
            self._loop.call_soon(lost, str(error))

    async def drain(self) -> None:
        """Return when nothing is under way; for a device that gets no new commands."""
        self._draining = True
        self.look()
        while self._ring.pending and self._lost is not None:
            self._drained.clear()
            await self._drained.wait()
        self._poke()

    async def close(self, within_s: float | None = None) -> bool:
        """Stop serving and let go of the device; False when commands still run behind that time.

        They write into the mapping, so it is kept until they have ended. May be called again.
        """
        if not self._ring.detached:
            self._lost = None
            self._unwatch()
            self._poke()
            self._device.close()
        try:
            async with asyncio.timeout(within_s):
                while self._ring.pending:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            return False
        if not self.uio.close():
            log.debug("the mapping of %s stays until nothing points into it", self.uio.node)
        return True
