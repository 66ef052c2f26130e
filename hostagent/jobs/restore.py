"""The restore: named files come back from the third volume, through the second, to the first.

Owns the table of steps and what each undoes. The rules:

  - The view of the third is found to hold every named file before anything is touched.
  - Host 1 lets go of the first volume *before* the split, so that no write that host 1 was told
    is safe gets overwritten.
  - Until the reverse resync is asked for, the first volume is the truth: undoing a split is a
    forward resync, which throws the partial copy on the second away. A pair that was split when
    the job began is left split.
  - From then on only forward is possible.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.attach.attacher import address_of
from hostagent.copying.beneath import requested_path, without_nested
from hostagent.copying.walk import Found, Listed
from hostagent.errors import HostError, MissingFilesError
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import SPLIT, resync, show_pair, show_volume
from hostagent.jobs.retry import UNANSWERED
from hostagent.jobs.steps import EndEarlyError, JobTable, Step

ASSUMED_BYTES_PER_S = 30 << 20
"""For the plan's estimate only: what a pass over the files' data is taken to reach."""
PASSES = 3
"""Copy, verify, resync."""
ASSUMED_OVERHEAD_S = 5.0

_RULES = {
    "in_sync": "the remote pair is in PAIR: the second volume holds what the first does, so it is "
    "split, gets the files, and the first is re-synchronised from it by the bitmaps",
    "split": "the remote pair is split: the second volume gets the files, and the first is "
    "re-synchronised from it; what was written on the first since the split is lost",
}


def view_name(context: JobContext) -> str:
    """The name of the job's view, and of its mount."""
    return f"view-{context.record.id.removeprefix('restore-')}"


def second_key(context: JobContext) -> str:
    """The name of the second volume's mount."""
    return f"second-{context.record.id.removeprefix('restore-')}"


def names_of(context: JobContext) -> list[str]:
    """The named paths, relative to the volume's root, none beneath another."""
    mountpoint = PurePosixPath(context.data_set.mountpoint)
    paths: list[str] = context.record.params["paths"]
    return without_nested([requested_path(path, mountpoint) for path in paths])


# ---------------------------------------------------------------- before anything is touched


async def plan(context: JobContext) -> None:
    """Decide from where the restore starts; refuse what can't work."""
    data_set, facts = context.data_set, context.record.facts
    names_of(context)
    first = await show_pair(context, data_set.primary, data_set.remote_pair)
    second = await show_pair(context, data_set.secondary, data_set.remote_pair)
    local = await show_pair(context, data_set.secondary, data_set.local_pair)
    if not first.peer_connected:
        raise RejectedError(
            Code.NO_PEER,
            f"{data_set.primary} has no connection to {data_set.secondary}",
            first.next_step or "bring the link between the controllers up",
        )
    if local.state not in SPLIT:
        raise RejectedError(
            Code.WRONG_STATE,
            f"there is no backup: local pair '{local.name}' is {local.state.value}",
            "take a backup first with `trilun backup`",
        )
    if first.state is m.PairState.PAIR:
        facts["start"] = "in_sync"
    elif first.state in SPLIT:
        facts["start"] = "split"
    else:
        raise RejectedError(
            Code.WRONG_STATE,
            f"remote pair '{first.name}' is {first.state.value}, a restore needs PAIR or PSUS"
            + (f": {first.reason}" if first.reason else ""),
            first.next_step or f"look at `trilun pair show {first.name}`",
        )
    facts["overwritten"] = first.dirty_bytes
    facts["union"] = first.dirty_bytes + second.dirty_bytes


async def open_view(context: JobContext) -> None:
    """Open the throw-away view of the third volume."""
    await _view(context)


async def _view(context: JobContext) -> m.VolumeInfo:
    """The view, opened if it isn't (or isn't any more: views don't outlive their controller)."""
    data_set = context.data_set
    name = view_name(context)
    if context.record.facts.get("view"):
        try:
            return await show_volume(context, data_set.secondary, name)
        except RejectedError as exc:
            if exc.code is not Code.NOT_FOUND:
                raise
        context.renew("view")
    context.record.facts["view"] = True
    await context.save()
    params = m.ViewOpen(volume=data_set.third, view=name)
    return await context.ask(data_set.secondary, "view.open", params, m.VolumeInfo, "view")


async def close_view(context: JobContext) -> None:
    """Unmount, detach and close the view."""
    await context.ports.host.unmount(view_name(context))
    if not context.record.facts.get("view"):
        return
    params = m.Named(name=view_name(context))
    try:
        await context.ask(
            context.data_set.secondary, "view.close", params, m.VolumeInfo, "close-view"
        )
    except RejectedError as exc:
        if exc.code is not Code.NOT_FOUND:
            raise
    context.record.facts["view"] = False


async def mount_view(context: JobContext) -> None:
    """Mount the view, which replays the file system's journal there (law L13)."""
    address = address_of(await _view(context))
    host = context.ports.host
    path = await host.mount(view_name(context), address, context.data_set)
    context.record.facts["view_path"] = str(path)


async def unmount_view(context: JobContext) -> None:
    """Unmount and detach the view."""
    await context.ports.host.unmount(view_name(context))


async def find(context: JobContext) -> None:
    """Look for every named file in the view; a dry run ends here."""
    await mount_view(context)
    path = Path(context.record.facts["view_path"])
    found = await context.ports.host.find(path, names_of(context), context.work(0))
    record = context.record
    record.plan = _plan_of(context, found)
    record.facts["file_bytes"] = found.file_bytes
    if found.missing:
        raise MissingFilesError(found.missing)
    if record.params["dry_run"]:
        raise EndEarlyError


def _plan_of(context: JobContext, found: Found) -> m.RestorePlan:
    facts = context.record.facts
    data_bytes = found.file_bytes * PASSES + int(facts["union"])
    return m.RestorePlan(
        data_set=context.data_set.name,
        files=[_restored(file) for file in found.named],
        missing=found.missing,
        bytes_to_copy=found.file_bytes,
        direction=m.Direction.REVERSE,
        rule=_RULES[facts["start"]],
        starting_point=facts["start"],
        overwritten_bytes=facts["overwritten"],
        union_bytes=facts["union"],
        eta_s=ASSUMED_OVERHEAD_S + data_bytes / ASSUMED_BYTES_PER_S,
        steps=RESTORE.names,
    )


def _restored(file: Listed) -> m.RestoredFile:
    return m.RestoredFile(
        path=file.path, kind=file.kind, size_bytes=file.size_bytes, digest=file.digest
    )


# ---------------------------------------------------------------- host 1 lets go, the pair splits


async def release(context: JobContext) -> None:
    """Host 1 unmounts and detaches the first volume."""
    data_set, record = context.data_set, context.record
    record.facts.setdefault("released_at", context.ports.clock.time())
    params = m.FsRelease(data_set=data_set.name, job=record.id, force=record.params["force"])
    await context.ask(data_set.host1, "fs.release", params, m.HostFs, "release")


async def reclaim(context: JobContext) -> None:
    """Host 1 attaches and mounts the first volume again."""
    data_set, record = context.data_set, context.record
    params = m.FsReclaim(data_set=data_set.name, job=record.id)
    await context.ask(data_set.host1, "fs.reclaim", params, m.HostFs, "reclaim")
    released_at = record.facts.get("released_at")
    if released_at is not None:
        record.facts["released_s"] = max(0.0, context.ports.clock.time() - released_at)


async def split(context: JobContext) -> None:
    """Split the remote pair and let this host write to the second volume."""
    data_set = context.data_set
    label = f"restore {context.record.id}"
    params = m.PairSplit(name=data_set.remote_pair, writable=True, label=label)
    await context.ask(data_set.primary, "pair.split", params, m.PairInfo, "split")


async def undo_split(context: JobContext) -> None:
    """The first volume is the truth: bring the second back to it."""
    data_set = context.data_set
    if context.record.facts["start"] == "split":
        # It was found split and stays so: what is on its two sides is the operator's business.
        if context.record.facts.get("copying"):
            context.record.next_step = (
                f"{context.record.next_step}; the second volume may hold a part of the files: "
                "restore again, or discard it with "
                f"`trilun pair resync {data_set.remote_pair} --forward`"
            ).removeprefix("; ")
        return
    pair = await show_pair(context, data_set.primary, data_set.remote_pair)
    if pair.state is m.PairState.PAIR:
        return
    await resync(context, data_set.primary, pair.name, "resync-back", m.Direction.FORWARD)


# ---------------------------------------------------------------- the files


async def mount_second(context: JobContext) -> None:
    """Attach and mount the second volume for writing."""
    data_set = context.data_set
    volume = await show_volume(context, data_set.secondary, data_set.second)
    if volume.access is not m.AccessInfo.READ_WRITE:
        raise HostError(
            f"volume '{volume.name}' on {volume.node} is {volume.access.value}, not writable",
            f"look at `trilun volume show {volume.name}`",
            Code.WRONG_STATE,
        )
    path = await context.ports.host.mount(second_key(context), address_of(volume), data_set)
    context.record.facts["second_path"] = str(path)


async def unmount_second(context: JobContext) -> None:
    """Unmount and detach the second volume, everything flushed."""
    await context.ports.host.unmount(second_key(context))


async def copy(context: JobContext) -> None:
    """Copy the named files from the view to the second volume."""
    facts = context.record.facts
    await mount_view(context)
    await mount_second(context)
    facts["copying"] = True
    await context.save()
    await context.ports.host.copy(
        Path(facts["view_path"]),
        Path(facts["second_path"]),
        names_of(context),
        context.record.id,
        context.work(facts["file_bytes"]),
    )


async def verify(context: JobContext) -> None:
    """Read the files back from the second volume and compare them with the view."""
    facts = context.record.facts
    await mount_view(context)
    await mount_second(context)
    verified = await context.ports.host.verify(
        Path(facts["view_path"]),
        second_key(context),
        Path(facts["second_path"]),
        names_of(context),
        context.work(facts["file_bytes"]),
    )
    facts["files"] = [_restored(file).model_dump(mode="json") for file in verified.files]
    facts["copied_bytes"] = verified.file_bytes
    facts["read_bytes"] = verified.read_bytes


# ---------------------------------------------------------------- only forward from here


async def resync_first(context: JobContext) -> None:
    """Re-synchronise the first volume from the second."""
    data_set = context.data_set
    # Said before it is asked: if the answer is lost, nobody may think that it wasn't begun.
    await context.commit(True)
    try:
        pair = await resync(
            context, data_set.primary, data_set.remote_pair, "resync", m.Direction.REVERSE
        )
    except RejectedError as exc:
        if exc.code not in UNANSWERED and not context.record.facts.get("resync.asked"):
            await context.commit(False)
        raise
    context.record.facts["wire"] = {
        "payload_bytes": pair.resync_payload_bytes,
        "wire_bytes": pair.resync_wire_bytes,
        "union_bytes": pair.resync_union_bytes,
        "discarded_bytes": pair.resync_discarded_bytes,
    }


async def receipt(context: JobContext) -> None:
    """Write down what was done."""
    record, facts = context.record, context.record.facts
    now = context.ports.clock.time()
    record.receipt = m.Receipt(
        job=record.id,
        kind=record.kind,
        data_set=record.data_set,
        files=[m.RestoredFile.model_validate(file) for file in facts["files"]],
        file_bytes=facts["copied_bytes"],
        bytes_read=facts["read_bytes"],
        verified=True,
        frozen_s=float(facts.get("released_s", 0.0)),
        duration_s=max(0.0, now - record.started_at),
        finished_at=now,
        **facts["wire"],
    )


RESTORE = JobTable(
    (
        Step("plan", plan),
        Step("open-view", open_view, undo=close_view),
        Step("mount-view", mount_view, undo=unmount_view),
        Step("find", find),
        Step("release", release, undo=reclaim),
        Step("split", split, undo=undo_split),
        Step("mount-second", mount_second, undo=unmount_second),
        Step("copy", copy),
        Step("verify", verify),
        Step("unmount-second", unmount_second),
        Step("close-view", close_view),
        Step("resync", resync_first),
        Step("reclaim", reclaim),
        Step("receipt", receipt),
    )
)
