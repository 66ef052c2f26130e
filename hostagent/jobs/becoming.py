"""A restore of files that turns out to be one of the whole volume.

Owns that decision. It is made when host 1 has let go and the pair is split: nobody can write
then, so nothing that came in between is lost. The named files must be all that is on the second
volume and in the backup, to be put in their own places, with nothing to be kept beside them; and
a backup that was being copied behind its split stays a source of files.
Must not change anything but mounts. The job goes on behind the split, as the other kind.
"""

from __future__ import annotations

from pathlib import Path

from controller.api import messages as m
from hostagent.jobs import views
from hostagent.jobs.context import JobContext
from hostagent.jobs.restore_files import (
    mount_second,
    names_of,
    place_of,
    policy_of,
    unmount_second,
)
from hostagent.jobs.steps import ContinueAsError
from hostagent.jobs.survey import source_of
from hostagent.jobs.undo import NONE_OF_FILES

GOES_ON_AT = "resync-second"
WHY = "the named files are all there is on the volume, and nothing is to be kept beside them"
_FORESEEN = (
    "the named files are all there is in the backup, and nothing is to be kept beside them: if "
    "the volume has nothing else then, it is restored as a whole, by bitmaps"
)


def _may_be(context: JobContext) -> bool:
    return not place_of(context) and policy_of(context) is m.Conflict.OVERWRITE


async def foresee(context: JobContext) -> None:
    """Say in the plan that it may become a whole volume."""
    plan = context.record.plan
    assert plan is not None
    if not _may_be(context) or source_of(context).behind:
        return
    view = Path(context.record.facts[f"{views.BACKUP}_path"])
    if await context.ports.host.all_of_backup(view, names_of(context)):
        context.record.plan = plan.model_copy(update={"whole": _FORESEEN, "undo": NONE_OF_FILES})


async def decide(context: JobContext) -> None:
    """Go on as a restore of the whole volume, where that brings back the same."""
    if not _may_be(context) or source_of(context).behind:
        return
    view = await views.mount_view(context, views.BACKUP)
    await mount_second(context)
    second = Path(context.record.facts["second_path"])
    names, work = names_of(context), context.work(0)
    if await context.ports.host.all_there_is(view, second, names, work):
        await unmount_second(context)
        await views.close_view(context, views.BACKUP)
        raise ContinueAsError(m.JobKind.WHOLE, GOES_ON_AT, WHY)
    plan = context.record.plan
    assert plan is not None
    context.record.plan = plan.model_copy(update={"whole": "", "undo": ""})
