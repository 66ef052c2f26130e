"""One TCMU device between its ring and the device server.

Owns the order of things when the kernel has spoken: entries are taken, commands are run, left
ones get their fate. Must not poke the kernel or wait: the shell calls `run` when the uio device
is readable, and pokes when the ring's `poke_due` says so. Fails with `TornRingError`.

One nexus stands for all initiators: the ring does not say who sent a command. A unit attention
of ours is therefore heard by the first initiator that sends one. That each hears something is the
kernel's part (`attentions`), which has its own for resets, too.
"""

from __future__ import annotations

from targets.lio.layout import TmrKind
from targets.lio.ring import Ring, RingCommand, TaskManagement
from targets.lio.takeover import Fate
from targets.scsi.device import DeviceServer
from targets.scsi.sense import Status

_RESETS = frozenset({TmrKind.LUN_RESET, TmrKind.TARGET_WARM_RESET, TmrKind.TARGET_COLD_RESET})


class RingDevice:
    """Runs a ring's commands on one logical unit."""

    def __init__(
        self, ring: Ring, server: DeviceServer, fates: dict[int, Fate] | None = None
    ) -> None:
        """`fates`: of the commands a predecessor left, from `takeover.judge`."""
        self.ring = ring
        self.server = server
        self.nexus = server.open_nexus("lio", power_on=False)
        self._fates = dict(fates or {})

    def close(self) -> None:
        """Stop serving; see `Ring.detach` for what has to be waited for."""
        self.ring.detach()
        self.server.close_nexus(self.nexus)

    def run(self) -> None:
        """Take and start everything that is in the ring."""
        take, submit, nexus = self.ring.take, self.server.submit, self.nexus
        while (entry := take()) is not None:
            if isinstance(entry, TaskManagement):
                self._managed(entry)
            elif self._fates:
                self._take_over(entry)
            else:
                entry.nexus = nexus
                submit(entry)

    def _take_over(self, command: RingCommand) -> None:
        fate = self._fates.pop(command.cmd_id, Fate.RUN)
        assert fate is not Fate.RUN or not command.request_lost
        if fate is Fate.RUN:
            command.nexus = self.nexus
            self.server.submit(command)
        else:
            command.end(Status.BUSY if fate is Fate.BUSY else Status.TASK_ABORTED)

    def _managed(self, entry: TaskManagement) -> None:
        """Aborted commands end as they would; the kernel waits for them, then drops the answers.

        A reset undoes what MODE SELECT has set. Its unit attention comes from the kernel.
        """
        if entry.kind in _RESETS:
            self.server.unit.software_write_protect = False
