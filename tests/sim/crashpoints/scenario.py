"""What a scenario is: a world at rest, a story, and what went on before it.

Owns the words all stories share. A copy goes upwards through a volume, so the stories write
downwards, and half a copy is never one instant of what was written. Blocks are 4 KiB, extents
two blocks, and four extents are hot at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from controller.api import messages as m
from tests.sim.crashpoints.steps import Steps
from tests.sim.crashpoints.world import Setting

LOCAL = Setting(local=True)
UNDO = Setting(local=True, spare=True)
GROUP = Setting(local=True, group=True)
ASYNC = Setting(mode=m.Mode.ASYNC)
UNPAIRED = Setting(paired=False)


@dataclass(frozen=True)
class Scenario:
    """`before` happens unharmed; power is lost at every boundary of `story`."""

    name: str
    about: str
    story: Callable[[Steps], Awaitable[None]]
    setting: Setting = field(default_factory=Setting)
    before: Callable[[Steps], Awaitable[None]] | None = None


async def busy(steps: Steps) -> None:
    """Writes to four extents: all that are hot."""
    for block in (14, 9, 6, 2):
        await steps.write(block)
