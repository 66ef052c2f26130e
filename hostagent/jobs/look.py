"""The look: a backup's view stays mounted while somebody looks into it.

Owns the table of steps. The end of a look is its undo: the view is unmounted and closed when the
client says so, when it is silent for too long, when the job is cancelled, and at the next start
of an agent that died. A look is not gone on with: its client has gone, too.
"""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath

from hostagent.jobs import views
from hostagent.jobs.context import JobContext
from hostagent.jobs.steps import EndEarlyError, JobTable, Step
from hostagent.jobs.survey import choose_source, source_of
from hostagent.looking.marks import Marks
from hostagent.looking.rooms import Room, Rooms

LOOKING = "look"
"""The step in which visitors are let in."""
POLL_S = 1.0


async def plan(context: JobContext) -> None:
    """Choose the backup."""
    await choose_source(context)


async def open_view(context: JobContext) -> None:
    """Open the throw-away view."""
    await views.open_view(context, views.BACKUP)


async def close_view(context: JobContext) -> None:
    """Unmount, detach and close the view."""
    await views.close_view(context, views.BACKUP)


async def mount_view(context: JobContext) -> None:
    """Mount the view."""
    await views.mount_view(context, views.BACKUP)


async def unmount_view(context: JobContext) -> None:
    """Unmount and detach the view."""
    await views.unmount_view(context, views.BACKUP)


def look_table(rooms: Rooms) -> JobTable:
    """The steps of a look into those rooms."""

    async def look(context: JobContext) -> None:
        facts, data_set = context.record.facts, context.data_set
        if facts.get("looked"):
            raise EndEarlyError
        facts["looked"] = True
        await context.save()
        root = await views.mount_view(context, views.BACKUP)
        mountpoint = PurePosixPath(data_set.mountpoint)
        marks = Marks(
            data_set.primary,
            data_set.remote_pair,
            data_set.secondary,
            source_of(context).pair,
            views.key_of(context, views.BACKUP),
        )
        room = rooms.open(context.record.id, data_set.name, mountpoint, data_set.host1, root, marks)
        context.record.message = "open"
        context.publish()
        try:
            await _until_empty(context, rooms, room)
        finally:
            rooms.drop(context.record.id)
        raise EndEarlyError

    return JobTable(
        (
            Step("plan", plan),
            Step("open-view", open_view, undo=close_view),
            Step("mount-view", mount_view, undo=unmount_view),
            Step(LOOKING, look),
        )
    )


async def _until_empty(context: JobContext, rooms: Rooms, room: Room) -> None:
    closing = asyncio.ensure_future(room.closing.wait())
    try:
        while rooms.left_s(room) > 0:
            pause = asyncio.ensure_future(context.ports.pause(POLL_S))
            try:
                waits = {pause} if room.closing.is_set() else {closing, pause}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
    finally:
        closing.cancel()
