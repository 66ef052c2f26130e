"""Which initiators may take for kept what a power loss took: writes they had not flushed.

Owns a volume's memory of that (law L5). Must not know SCSI. When the catalogue can't be written
an initiator has to look anew once more at worst.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from controller.volume.store import StoreDone, StoreError

log = logging.getLogger(__name__)

MAX_SETTLED = 64
"""Initiators remembered for a volume; beyond, the oldest must look anew if it comes back."""


class LossState(Protocol):
    """The durable facts, as the catalogue keeps them."""

    name: str
    at_rest: bool
    """Stopped cleanly, everything flushed."""
    power_lost: bool
    """Since the volume was made, power was lost under it."""
    settled: list[str]
    """Who has looked anew since the last time."""


class PowerLosses:
    """See `targets.lun.Losses`."""

    def __init__(self, state: LossState, commit: Callable[[StoreDone], None]) -> None:
        self._state = state
        self._commit = commit

    def owed(self, initiator: str) -> bool:
        """Whether it may take for kept what is gone."""
        return self._state.power_lost and initiator not in self._state.settled

    def settled(self, initiator: str) -> None:
        """It looks anew."""
        self._state.settled = [*self._state.settled, initiator][-MAX_SETTLED:]
        self._commit(self._noted)

    def _noted(self, error: StoreError | None) -> None:
        if error is not None:
            log.warning("volume %s: who looked anew isn't noted: %s", self._state.name, error)


def opened(state: LossState, *, same_boot: bool) -> None:
    """A volume is about to be served again; noted with the catalogue's next commit.

    A machine that has not booted since still has in its memory what was not flushed.
    """
    if not state.at_rest and not same_boot:
        state.power_lost, state.settled = True, []
    state.at_rest = False
