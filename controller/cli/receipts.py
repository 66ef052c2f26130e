"""Plans and receipts of jobs, for people.

Owns their wording and order on a terminal. Must not leave a number out that `--json` has for a
reason an operator cares about. Never fails.
"""

from __future__ import annotations

import time

from rich.table import Table

from controller.api import messages as m
from controller.cli.databases import database_parts
from controller.cli.output import details, table
from controller.service.sizes import format_size

MAX_SHOWN_FILES = 50

_BACKUPS = {m.JobKind.BACKUP, m.JobKind.GROUP_BACKUP}
_ACTIONS = {
    "keep": "kept beside it",
    "overwrite": "overwritten",
    "skip": "left as it is, not restored",
    "fail": "nothing is restored",
}


def plan_parts(plan: m.RestorePlan) -> list[Table]:
    """What a restore would do."""
    unknown = f"unknown: {plan.conflicts_unknown}" if plan.conflicts_unknown else ""
    conflicts = unknown or f"{plan.conflict_count} (--conflict {plan.conflict})"
    parts = [
        details(
            [
                ("group" if plan.members else "data set", plan.data_set),
                ("from", _backup(plan.backup_label, plan.backup_pair, plan.backup_at)),
                ("whole volume", plan.whole),
                ("second from third", format_size(plan.second_union_bytes) if plan.whole else ""),
                ("undo", plan.undo),
                ("files", str(plan.file_count) if plan.file_count else ""),
                ("to copy", format_size(plan.bytes_to_copy)),
                ("to", "" if plan.whole else plan.to or "their own places"),
                ("not in the backup", ", ".join(plan.missing)),
                ("direction", plan.direction.value),
                ("because", plan.rule),
                ("starts from", plan.starting_point.replace("_", " ")),
                ("that means", plan.meaning),
                ("overwritten", format_size(plan.overwritten_bytes)),
                ("needs", plan.needs),
                ("union now", format_size(plan.union_bytes)),
                ("union then", f"about {format_size(plan.expected_union_bytes)}"),
                ("conflicts", "" if plan.whole else conflicts),
                ("takes about", f"{plan.eta_s:.0f} s"),
                ("steps", ", ".join(plan.steps)),
            ]
        )
    ]
    if plan.members:
        parts.append(planned_table(plan.members))
    if plan.files:
        parts.append(_files(plan.files, len(plan.files)))
    if plan.conflicts:
        parts.append(_conflicts(plan.conflicts, plan.conflict_count))
    return parts


def receipt_parts(receipt: m.Receipt) -> list[Table]:
    """What a job has done."""
    restored = receipt.kind is m.JobKind.RESTORE
    of_group = receipt.members or receipt.restored
    second = f"{format_size(receipt.second_union_bytes)} differed" if receipt.whole else ""
    count = receipt.file_count or len(receipt.files)
    conflicts = f"{receipt.conflict_count} (--conflict {receipt.conflict})"
    parts = [
        details(
            [
                ("job", receipt.job),
                ("kind", receipt.kind.value),
                ("group" if of_group else "data set", receipt.data_set),
                ("label", receipt.label),
                ("backup", _backup("", receipt.backup_pair, receipt.backup_at)),
                ("in place of", receipt.replaced),
                ("whole volume", receipt.whole),
                ("second from third", second),
                ("undo", receipt.undo),
                ("files", str(count) if restored else ""),
                ("the same already", str(receipt.unchanged_count) if restored else ""),
                ("to", (receipt.to or "their own places") if restored else ""),
                ("file bytes", format_size(receipt.file_bytes) if restored else ""),
                ("read back", format_size(receipt.bytes_read) if restored else ""),
                ("verified", _verified(receipt)),
                ("conflicts", conflicts if receipt.conflict is not None else ""),
                ("on the wire", format_size(receipt.wire_bytes)),
                ("data carried", format_size(receipt.payload_bytes)),
                ("union", format_size(receipt.union_bytes)),
                ("discarded", format_size(receipt.discarded_bytes)),
                (
                    "frozen" if receipt.kind in _BACKUPS else "released",
                    f"{receipt.frozen_s:.2f} s",
                ),
                ("began", _moment(receipt.started_at)),
                ("ended", _moment(receipt.finished_at)),
                ("took", f"{receipt.duration_s:.1f} s"),
                ("steps", ", ".join(f"{n} {s:.1f} s" for n, s in receipt.step_s.items())),
            ]
        )
    ]
    if receipt.members:
        parts.append(members_table(receipt.members))
    if receipt.restored:
        parts.append(restored_table(receipt.restored))
    if receipt.databases:
        parts += database_parts(receipt.databases)
    if receipt.files:
        parts.append(_files(receipt.files, count))
    if receipt.conflicts:
        parts.append(_conflicts(receipt.conflicts, receipt.conflict_count))
    return parts


def _backup(label: str, pair: str, at: float) -> str:
    words = [f"'{label}'" if label else "", pair, f"of {_moment(at)}" if at else ""]
    return " ".join(word for word in words if word)


def _verified(receipt: m.Receipt) -> str:
    compared = receipt.compared_bytes
    words = f"yes, {format_size(compared)} compared by digest" if compared else "yes"
    return words if receipt.verified else ""


def _moment(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s)) if unix_s else ""


def members_table(members: list[m.MemberBackup]) -> Table:
    """What each data set has of a group's backup."""
    return table(
        ("DATA SET", "BACKUP", "IN PLACE OF", "FROZEN"),
        [(e.data_set, e.pair, e.replaced or "-", f"{e.frozen_s:.2f} s") for e in members],
        right="FROZEN",
    )


def planned_table(members: list[m.RestorePlan]) -> Table:
    """What a restore of a group would do to each data set."""
    return table(
        ("DATA SET", "BACKUP", "OVERWRITTEN", "UNION", "UNDO IN"),
        [
            (
                e.data_set,
                e.backup_pair,
                format_size(e.overwritten_bytes),
                format_size(e.expected_union_bytes),
                e.undo_pair or "-",
            )
            for e in members
        ],
        right="OVERWRITTEN",
    )


def restored_table(members: list[m.MemberRestore]) -> Table:
    """What each data set has of a group's restore."""
    return table(
        ("DATA SET", "BACKUP", "UNION", "ON THE WIRE", "RELEASED", "UNDO IN"),
        [
            (
                e.data_set,
                e.backup_pair,
                format_size(e.union_bytes),
                format_size(e.wire_bytes),
                f"{e.released_s:.2f} s",
                e.undo_pair or "-",
            )
            for e in members
        ],
        right="UNION",
    )


def _files(files: list[m.RestoredFile], count: int) -> Table:
    rows: list[tuple[str, str, str]] = [
        (f.path, f.kind, format_size(f.size_bytes)) for f in files[:MAX_SHOWN_FILES]
    ]
    if count > len(rows):
        rows.append((f"and {count - len(rows)} more", "", ""))
    return table(("PATH", "KIND", "SIZE"), rows, right="SIZE")


def _conflicts(conflicts: list[m.ConflictInfo], count: int) -> Table:
    rows = [
        (c.path, c.changed, c.kept_as or _ACTIONS[c.action]) for c in conflicts[:MAX_SHOWN_FILES]
    ]
    if count > len(rows):
        rows.append((f"and {count - len(rows)} more", "", ""))
    return table(("CHANGED SINCE THE BACKUP", "WHAT", "IS NOW"), rows)
