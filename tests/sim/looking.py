"""What a view shows: of a quick split's S-VOL its instant, whether it is copied yet or not.

Owns that judge. Reads as a host does, piece by piece, while everything else goes on.
"""

from __future__ import annotations

import asyncio

from controller.volume.volume import Volume
from targets.lun import LunError
from tests.sim.machine import Machine
from tests.sim.operator import Operator

PIECE_BYTES = 64 << 10


async def look_through(operator: Operator, machine: Machine, pair: str, view: Volume) -> None:
    """Read the view that was just opened of a local pair's S-VOL, as far as nothing fails.

    Nobody writes to it before the end.
    """
    leader = machine.node.pairs.local(pair)
    if leader is None:
        return
    behind, record = leader.side.behind, leader.record
    if behind is None or not record.behind:
        return
    expected = operator.oracle.quick[record.id]
    operator.oracle.event(f"looking through the view: {behind.progress().left_bytes} bytes to copy")
    for at in range(0, operator.size_bytes, PIECE_BYTES):
        if machine.volume("view") is not view:
            # It died with its controller: nobody would answer.
            return
        into = bytearray(min(PIECE_BYTES, operator.size_bytes - at))
        error: LunError | None = await machine.io(
            lambda done, a=at, i=into: view.read(a, memoryview(i), done)  # type: ignore[misc]
        )
        if error is not None:
            if behind.active and not operator.oracle.reads_fail:
                operator.oracle.broken("L13", f"a view of '{record.name}' can't be read: {error}")
            return
        if bytes(into) != expected[at : at + len(into)]:
            operator.oracle.broken(
                "L11", f"a view of '{record.name}' is not its split at {at} to {at + len(into)}"
            )
            return
        await asyncio.sleep(operator.rng.uniform(0, 0.1))
