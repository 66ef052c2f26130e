"""Throw-away views of volumes, as jobs use them (law L13).

Owns a view's name, its opening and mounting, and the way back. A view is named by its job, so
whatever a death leaves is found again and closed by the job's undo. Must not change the volume
that is looked at. Fails with what the controller or this host answers.
"""

from __future__ import annotations

from pathlib import Path

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.attach.attacher import address_of
from hostagent.errors import HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import show_volume
from hostagent.jobs.survey import source_of

BACKUP = "view"
"""The view of the third volume."""
NOW = "now"
"""The view of the second volume, of a pair that is split."""


def key_of(context: JobContext, what: str) -> str:
    """The name of one of the job's views or mounts."""
    return f"{what}-{context.record.id.partition('-')[2]}"


async def open_view(context: JobContext, what: str) -> m.VolumeInfo:
    """The view, opened if it isn't (or isn't any more: views don't outlive their controller)."""
    data_set = context.data_set
    name = key_of(context, what)
    if context.record.facts.get(what):
        try:
            return await show_volume(context, data_set.secondary, name)
        except RejectedError as exc:
            if exc.code is not Code.NOT_FOUND:
                raise
        context.renew(what)
        # The end of the view before was asked for, perhaps: this one's is another.
        context.renew(f"close-{what}")
    context.record.facts[what] = True
    await context.save()
    volume = source_of(context).volume if what == BACKUP else data_set.second
    params = m.ViewOpen(volume=volume, view=name)
    return await context.ask(data_set.secondary, "view.open", params, m.VolumeInfo, what)


async def mount_view(context: JobContext, what: str) -> Path:
    """Mount the view, which replays the file system's journal there."""
    address = address_of(await open_view(context, what))
    path = await context.ports.host.mount(key_of(context, what), address, context.data_set)
    context.record.facts[f"{what}_path"] = str(path)
    return path


async def unmount_view(context: JobContext, what: str) -> None:
    """Unmount and detach the view."""
    await context.ports.host.unmount(key_of(context, what))


async def close_view(context: JobContext, what: str) -> None:
    """Unmount, detach and close the view."""
    await unmount_view(context, what)
    if not context.record.facts.get(what):
        return
    params = m.Named(name=key_of(context, what))
    try:
        await context.ask(
            context.data_set.secondary, "view.close", params, m.VolumeInfo, f"close-{what}"
        )
    except RejectedError as exc:
        if exc.code is Code.IN_USE:
            # A host that lost power stays logged in until its target misses it: that passes.
            raise HostError(exc.message, exc.next_step, Code.BUSY) from exc
        if exc.code is not Code.NOT_FOUND:
            raise
    context.record.facts[what] = False
