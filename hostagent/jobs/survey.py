"""What the backup slots of a data set hold now.

Owns the questions to the secondary. Must not change or choose anything. Fails with what that
node answers; a slot whose pair or volume isn't there is told as such.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.config import BackupSlot, DataSetConfig
from hostagent.jobs.context import JobContext
from hostagent.jobs.ports import Nodes
from hostagent.jobs.slots import choose_for_restore, describe

InfoT = TypeVar("InfoT", m.PairInfo, m.VolumeInfo)


async def survey(nodes: Nodes, data_set: DataSetConfig) -> list[m.BackupInfo]:
    """Every slot, in the configuration's order."""
    return list(await asyncio.gather(*(_look(nodes, data_set, slot) for slot in data_set.slots)))


async def _look(nodes: Nodes, data_set: DataSetConfig, slot: BackupSlot) -> m.BackupInfo:
    secondary = data_set.secondary
    pair = await _show(nodes, secondary, "pair.show", slot.pair, m.PairInfo)
    third = await _show(nodes, secondary, "volume.show", slot.volume, m.VolumeInfo)
    return describe(slot, secondary, data_set.second, pair, third)


async def _show(nodes: Nodes, node: str, verb: str, name: str, answer: type[InfoT]) -> InfoT | None:
    try:
        info = await nodes.call(node, verb, m.Named(name=name), None)
    except RejectedError as exc:
        if exc.code is not Code.NOT_FOUND:
            raise
        return None
    if not isinstance(info, answer):
        raise RejectedError(
            Code.INTERNAL,
            f"{node} answered {type(info).__name__}",
            "run the same version everywhere",
        )
    return info


async def choose_source(context: JobContext) -> m.BackupInfo:
    """The backup a restore reads: `from_backup` of its request, else the newest. Kept as a fact."""
    slots = await survey(context.ports.nodes, context.data_set)
    chosen = choose_for_restore(slots, context.record.params.get("from_backup", ""))
    context.record.facts["backup"] = chosen.model_dump(mode="json")
    return chosen


async def written_since(context: JobContext) -> int | None:
    """Bytes in blocks that were written since the restore that is to be undone.

    The slot that restore read tells, as long as it holds the same backup; None when it doesn't.
    """
    restored = context.record.params.get("restored_from")
    if restored is None:
        return None
    pair, taken_at = restored
    for slot in await survey(context.ports.nodes, context.data_set):
        if slot.pair == pair and slot.is_backup and slot.taken_at == taken_at:
            return slot.dirty_bytes
    return None


def source_of(context: JobContext) -> m.BackupInfo:
    """The backup that was chosen."""
    return m.BackupInfo.model_validate(context.record.facts["backup"])
