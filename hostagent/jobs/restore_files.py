"""The restore's steps that deal with files: find, compare, copy, verify.

Owns what is remembered of the named set between steps: the expanded names, and what had changed
on the volume, which is written down before anything is copied. Must not change a pair. Fails
with HostError or OSError.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.file_names import from_wire, to_wire
from hostagent.attach.attacher import address_of
from hostagent.copying.beneath import requested_path, shown
from hostagent.copying.comparing import Compared
from hostagent.copying.patterns import Asked, asked_path
from hostagent.copying.placing import Placing
from hostagent.copying.walk import MAX_LISTED, MAX_LISTED_BYTES, Listed
from hostagent.errors import ConflictsError, HostError
from hostagent.jobs.context import JobContext
from hostagent.jobs.pairs import show_volume
from hostagent.jobs.recovering import make_exact
from hostagent.jobs.views import BACKUP, key_of, mount_view

SECOND = "second"
"""What the second volume's mount is called."""

_ACTIONS = {
    m.Conflict.KEEP_BOTH: "keep",
    m.Conflict.OVERWRITE: "overwrite",
    m.Conflict.SKIP: "skip",
    m.Conflict.FAIL: "fail",
}


# ---------------------------------------------------------------- what was asked for


def asked_of(context: JobContext) -> list[Asked]:
    """The paths and patterns as they were given; raises PathRefusedError."""
    mountpoint = PurePosixPath(context.data_set.mountpoint)
    return [asked_path(text, mountpoint) for text in context.record.params["paths"]]


def policy_of(context: JobContext) -> m.Conflict:
    """What is done with changed files. Nothing that was asked for by nobody is lost by default."""
    return m.Conflict(context.record.params.get("conflict") or m.Conflict.KEEP_BOTH)


def place_of(context: JobContext) -> str:
    """The directory that gets the files; raises PathRefusedError."""
    mountpoint = PurePosixPath(context.data_set.mountpoint)
    return requested_path(context.record.params.get("to") or "", mountpoint)


def placing_of(context: JobContext) -> Placing:
    """The job's rules, with what had changed as far as that is known."""
    changed = context.record.facts.get("changed", [])
    return Placing(
        context.record.id,
        place_of(context),
        policy_of(context),
        frozenset(from_wire(path) for path, _ in changed),
        compared=context.record.facts.get("changed_count") == len(changed),
    )


def names_of(context: JobContext) -> list[str]:
    """The named set, patterns expanded, relative to the volume's root, none beneath another."""
    return [from_wire(name) for name in context.record.facts["names"]]


# ---------------------------------------------------------------- the second volume


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
    key = key_of(context, SECOND)
    path = await context.ports.host.mount(key, address_of(volume), data_set)
    context.record.facts["second_path"] = str(path)


async def unmount_second(context: JobContext) -> None:
    """Unmount and detach the second volume, everything flushed."""
    await context.ports.host.unmount(key_of(context, SECOND))


async def _roots(context: JobContext) -> tuple[Path, Path]:
    view = await mount_view(context, BACKUP)
    await mount_second(context)
    return view, Path(context.record.facts["second_path"])


# ---------------------------------------------------------------- the steps


async def compare(context: JobContext) -> None:
    """Write down what has changed on the volume since the backup, before it is touched."""
    view, second = await _roots(context)
    compared = await context.ports.host.compare(
        view, second, names_of(context), placing_of(context), context.work(0)
    )
    policy = policy_of(context)
    if policy is m.Conflict.FAIL and compared.changed:
        raise ConflictsError([shown(one.path) for one in compared.changed])
    if policy is not m.Conflict.OVERWRITE and compared.changed_count > len(compared.changed):
        raise HostError(
            f"{compared.changed_count} files have changed since the backup, more than "
            f"{len(compared.changed)} can be kept or skipped",
            "name fewer files, or restore with --conflict overwrite",
            Code.BAD_REQUEST,
        )
    facts = context.record.facts
    facts["changed"] = [[to_wire(one.path), one.changed] for one in compared.changed]
    facts["changed_count"] = compared.changed_count
    facts["unchanged"] = compared.same_count


async def copy(context: JobContext) -> None:
    """Copy the named files from the view to the second volume."""
    facts = context.record.facts
    view, second = await _roots(context)
    facts["copying"] = True
    await context.save()
    await make_exact(context, view, second)
    await context.ports.host.copy(
        view, second, names_of(context), placing_of(context), context.work(facts["file_bytes"])
    )


async def verify(context: JobContext) -> None:
    """Read the files back from the second volume and compare them with the view."""
    facts = context.record.facts
    view, second = await _roots(context)
    verified = await context.ports.host.verify(
        view,
        key_of(context, SECOND),
        second,
        names_of(context),
        placing_of(context),
        context.work(facts["file_bytes"]),
    )
    facts["files"] = [restored(file).model_dump(mode="json") for file in verified.files]
    facts["files_count"] = verified.files_count
    facts["copied_bytes"] = verified.file_bytes
    facts["read_bytes"] = verified.read_bytes


# ---------------------------------------------------------------- for plans and receipts


def restored(file: Listed) -> m.RestoredFile:
    """One file as plans and receipts name it."""
    return m.RestoredFile(
        path=file.path, kind=file.kind, size_bytes=file.size_bytes, digest=file.digest
    )


def conflicts_of(context: JobContext, compared: Compared) -> list[m.ConflictInfo]:
    """What was found, as plans name it."""
    return _conflicts(context, [(one.path, one.changed) for one in compared.changed])


def noted_conflicts(context: JobContext) -> list[m.ConflictInfo]:
    """What was written down before the copy, as receipts name it."""
    changed: list[Any] = context.record.facts.get("changed", [])
    return _conflicts(context, [(from_wire(path), what) for path, what in changed])


def _conflicts(context: JobContext, changed: list[tuple[str, str]]) -> list[m.ConflictInfo]:
    placing = placing_of(context)
    policy = policy_of(context)
    told: list[m.ConflictInfo] = []
    left_bytes = MAX_LISTED_BYTES // 2
    for path, what in changed[:MAX_LISTED]:
        kept = policy is m.Conflict.KEEP_BOTH
        one = m.ConflictInfo.model_validate(
            {
                "path": shown(placing.at(path)),
                "changed": what,
                "action": _ACTIONS[policy],
                "kept_as": shown(placing.kept_path(path)) if kept else "",
            }
        )
        left_bytes -= len(one.path.encode()) + len(one.kept_as.encode())
        if left_bytes < 0:
            break
        told.append(one)
    return told
