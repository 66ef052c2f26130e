"""Which backup slot a backup or an undo takes, and which one a restore reads.

Pure. Owns retention: a slot is free, or its backup is older than all that are kept. A backup's
age is told by its number, never by a clock. What a restore has overwritten stands in a slot,
too, until it is dropped: it is neither free nor one of the backups. A backup that is being copied
behind its split still is lost with the second volume: it is read from, but neither given up for
another nor counted among those that are kept. Must not ask anybody: what the slots hold is handed
in. Refuses with RejectedError.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import PairState
from controller.api.undo import undone_job
from hostagent.config import BackupSlot

_FREE = (PairState.PAIR, PairState.COPY, PairState.PSUE, PairState.PSUS)
"""States a slot without a backup can be filled from, the nearest to PAIR first."""


def describe(
    slot: BackupSlot,
    secondary: str,
    second: str,
    pair: m.PairInfo | None,
    third: m.VolumeInfo | None,
) -> m.BackupInfo:
    """A slot as operators see it; `pair` and `third` are None where there is none."""
    if pair is None or third is None:
        create = f"trilun pair create {slot.pair} {secondary}/{second} {secondary}/{slot.volume}"
        missing = f"volume '{slot.volume}'" if third is None else f"pair '{slot.pair}'"
        return m.BackupInfo(
            pair=slot.pair,
            volume=slot.volume,
            state=PairState.SMPL.value,
            is_backup=False,
            reason=f"there is no {missing} on {secondary}",
            next_step=create
            if third is not None
            else f"trilun volume create {secondary}/{slot.volume} SIZE, then {create}",
        )
    behind = pair.behind and pair.state is PairState.PSUS
    stands = third.healthy and (third.consistent or behind)
    split = pair.state is PairState.PSUS and not pair.guarded
    return m.BackupInfo(
        pair=slot.pair,
        volume=slot.volume,
        state=pair.state.value,
        is_backup=split and stands,
        label=pair.split_label if split else "",
        taken_at=pair.split_at if split else 0.0,
        number=pair.backup_number,
        behind=behind,
        dirty_bytes=pair.dirty_bytes,
        undo_of=undone_job(pair.split_label) if split and stands else "",
        reason=pair.reason or ("" if stands else f"'{slot.volume}' holds no point in time"),
        next_step=pair.next_step,
    )


def newest_first(slots: list[m.BackupInfo]) -> list[m.BackupInfo]:
    """The backups, then the other slots."""
    backups = [slot for slot in slots if slot.is_backup]
    backups.sort(key=lambda slot: -slot.number)
    return backups + [slot for slot in slots if not slot.is_backup]


@dataclass(frozen=True, slots=True)
class Choice:
    """The slot a backup takes."""

    slot: m.BackupInfo
    number: int
    """The new backup's."""
    warning: str = ""
    """What is given up for it, in a sentence."""


def choose_for_backup(slots: list[m.BackupInfo], keep: int | None) -> Choice:
    """A free slot, else the oldest backup beyond the `keep` newest; RejectedError where none is.

    Without `keep` the newest backup is kept, where there is more than one slot: so there is never
    only the one that is being overwritten (law L7).
    """
    number = _next_number(slots)
    free = _free(slots)
    if free is not None:
        return Choice(free, number)
    backups = _backups(slots)
    kept = keep if keep is not None else min(1, len(slots) - 1)
    undo = next((slot for slot in slots if slot.undo_of), None)
    if undo is not None and len(backups) <= kept:
        raise RejectedError(
            Code.WRONG_STATE,
            f"no backup slot is free: '{undo.pair}' keeps what was there before "
            f"restore {undo.undo_of}" + ("" if backups else ", and there is no other to be used"),
            f"give that undo up with `{drop_command(undo)}`, or add a [[data_set.backup]]",
        )
    copied = next((slot for slot in slots if slot.behind), None)
    if copied is not None and len(backups) <= kept:
        raise RejectedError(
            Code.WRONG_STATE,
            f"no backup slot is free: {named(copied)} is being copied still"
            + ("" if backups else ", and there is no other to be used"),
            f"wait for it: `trilun pair wait {copied.pair} PSUS`, or add a [[data_set.backup]]",
        )
    if not backups:
        first = slots[0]
        raise RejectedError(
            Code.WRONG_STATE,
            f"no backup slot can be used: '{first.pair}' is {first.state}"
            + (f" ({first.reason})" if first.reason else ""),
            first.next_step or f"look at `trilun pair show {first.pair}`",
        )
    if len(backups) <= kept:
        raise RejectedError(
            Code.WRONG_STATE,
            f"every usable backup slot holds one of the {kept} newest backups, which are kept",
            "add a [[data_set.backup]], or overwrite the oldest with a smaller --keep",
        )
    oldest = backups[-1]
    warning = ""
    if len(backups) == 1:
        warning = f"{named(oldest)} is the only backup, and is gone while the new one is taken"
    return Choice(oldest, number, warning)


def choose_for_undo(
    slots: list[m.BackupInfo], source: m.BackupInfo, keep: int | None, create: str
) -> Choice:
    """The slot that keeps what a restore from `source` overwrites; RejectedError where none can.

    A backup is overwritten for it only beyond the `keep` newest, and never without `keep`.
    `create` is the command that makes another slot.
    """
    others = [slot for slot in slots if slot.pair != source.pair]
    number = _next_number(slots)
    free = _free(others)
    if free is not None:
        return Choice(free, number)
    older = [] if keep is None else _backups(slots)[keep:]
    older = [slot for slot in older if slot.pair != source.pair]
    if older:
        return Choice(older[-1], number, f"{named(older[-1])} is overwritten for it")
    broken = next((s for s in others if not s.is_backup and s.next_step), None)
    raise RejectedError(
        Code.WRONG_STATE,
        "no backup slot is free to keep what is overwritten",
        create if broken is None else broken.next_step,
    )


def choose_undo(slots: list[m.BackupInfo], job: str) -> m.BackupInfo:
    """What was there before that restore, or before the latest; RejectedError (not_found)."""
    kept = [slot for slot in newest_first(slots) if slot.undo_of and job in ("", slot.undo_of)]
    if kept:
        return kept[0]
    raise RejectedError(
        Code.NOT_FOUND,
        f"nothing is kept of what was there before {f'restore {job}' if job else 'any restore'}",
        "see `trilun backup list`; go back to a backup with `trilun restore --whole --from BACKUP`",
    )


def undo_command(slot: m.BackupInfo) -> str:
    """What an operator types to undo that restore."""
    return f"trilun restore undo {slot.undo_of}"


def drop_command(slot: m.BackupInfo) -> str:
    """What an operator types to give that undo up."""
    return f"trilun restore drop-undo {slot.undo_of}"


def _instead(slot: m.BackupInfo) -> str:
    return named(slot) if slot.undo_of else f"'{slot.pair}' is {slot.state}"


def _next_number(slots: list[m.BackupInfo]) -> int:
    return 1 + max((slot.number for slot in slots), default=0)


def _free(slots: list[m.BackupInfo]) -> m.BackupInfo | None:
    """The slot without a backup that is the nearest to PAIR."""
    free = [slot for slot in slots if not slot.is_backup and slot.state in _FREE]
    return min(free, key=lambda slot: _FREE.index(PairState(slot.state)), default=None)


def _backups(slots: list[m.BackupInfo]) -> list[m.BackupInfo]:
    """The backups that are whole, newest first, without what is kept for undos."""
    found = (slot for slot in newest_first(slots) if slot.is_backup and not slot.behind)
    return [slot for slot in found if not slot.undo_of]


def choose_for_restore(slots: list[m.BackupInfo], wanted: str) -> m.BackupInfo:
    """The backup of that pair or label, or the newest; RejectedError where it isn't clear.

    What is kept for an undo has to be named.
    """
    backups = newest_first([slot for slot in slots if slot.is_backup])
    if not wanted:
        newest = [slot for slot in backups if not slot.undo_of]
        if newest:
            return newest[0]
        raise RejectedError(
            Code.WRONG_STATE,
            "there is no backup: " + ", ".join(_instead(slot) for slot in slots),
            "take a backup first with `trilun backup`",
        )
    for slot in slots:
        if slot.pair == wanted and slot.is_backup:
            return slot
        if slot.pair == wanted:
            raise RejectedError(
                Code.WRONG_STATE,
                f"'{wanted}' holds no backup: it is {slot.state}"
                + (f" ({slot.reason})" if slot.reason else ""),
                "see `trilun backup list`",
            )
    labelled = [slot for slot in backups if slot.label == wanted]
    if not labelled:
        known = ", ".join(f"'{slot.label}'" for slot in backups if slot.label) or "none"
        raise RejectedError(
            Code.NOT_FOUND, f"there is no backup '{wanted}'; labels: {known}",
            "see `trilun backup list`",
        )  # fmt: skip
    if len(labelled) > 1:
        pairs = ", ".join(slot.pair for slot in labelled)
        raise RejectedError(
            Code.BAD_REQUEST,
            f"several backups are called '{wanted}'",
            f"name one by its pair: {pairs}",
        )
    return labelled[0]


def named(backup: m.BackupInfo) -> str:
    """A backup in a sentence."""
    if backup.undo_of:
        return f"what was there before restore {backup.undo_of}, in '{backup.pair}'"
    label = f"backup '{backup.label}'" if backup.label else f"backup {backup.number}"
    return f"{label} in '{backup.pair}'"
