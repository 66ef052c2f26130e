"""Copies behind quick splits come to their end by themselves, before anybody does anything else.

Owns the wait at the beginning of the quiet phase. A write to what is owed, or a command, would set
one that stands still going again: so hosts have stopped, and nothing is asked of a controller
here. Must not bring anything to PAIR. One that doesn't get on is a failure (law L3).
"""

from __future__ import annotations

import asyncio
from random import Random

from controller.api.messages import Role
from tests.sim.machine import Machine
from tests.sim.operator import Operator
from tests.sim.oracle import Oracle

PAUSE_S = 1.0
STANDS_AFTER_S = 300.0
"""Virtual seconds without a block less. A hot set of a few small extents makes copies slow."""


async def machines_up(oracle: Oracle) -> None:
    """Start what is down, and what can't make anything durable any more: no command does it."""
    for machine in oracle.machines.values():
        if machine.up and _metadata_failed(machine):
            # Nothing it says can be durable any more; an operator ends the process.
            oracle.event(f"{machine.name} is ended: its metadata failed")
            machine.crash(Random(0), "keep")
        if not machine.up:
            await machine.start()


def _metadata_failed(machine: Machine) -> bool:
    node = machine.node
    return node.catalogue._ring._failed is not None or any(
        owner.side.bitmap_file._failed is not None for owner in node.pairs.owners()
    )


async def copies_behind_end(oracle: Oracle, operator: Operator) -> None:
    """Wait for them; the oracle is told of one that stands still."""
    clock = asyncio.get_running_loop().time
    known: dict[str, int] = {}
    moved_s = clock()
    while not oracle.broke:
        await machines_up(oracle)
        left = _left(operator)
        if not left:
            return
        if left != known:
            known, moved_s = left, clock()
        elif clock() - moved_s > STANDS_AFTER_S:
            shown = ", ".join(f"'{name}' ({count} blocks)" for name, count in left.items())
            oracle.broken("L3", f"the copy behind a quick split stands still: {shown}")
            return
        await asyncio.sleep(PAUSE_S)


def _left(operator: Operator) -> dict[str, int]:
    """Blocks that are still owed, by pair; those whose end is not said yet have none."""
    left: dict[str, int] = {}
    for plan in operator.plans:
        record = operator.record(plan, Role.P_VOL)
        if record is None or not record.behind:
            continue
        sides = operator.oracle.machines[plan.p_machine].node.pairs.owners()
        behind = next(each.side.behind for each in sides if each.record is record)
        owed = behind.owed if behind is not None else None
        left[plan.name] = len(owed.held) if owed is not None else -1
    return left
