"""Which backups of several data sets are of one instant.

Pure. Owns the rule that they were taken together: the backup of a group gives all of its parts one
time, and no two others have the same. Of several such instants the newest is taken, told by the
backups' numbers. What a restore has overwritten has to be named. Refuses with RejectedError.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError


def choose_instant(slots: dict[str, list[m.BackupInfo]], wanted: str) -> dict[str, m.BackupInfo]:
    """The backup of each data set: those called `wanted`, or the newest that all of them have."""
    found = {name: _candidates(mine, wanted) for name, mine in slots.items()}
    for name, mine in found.items():
        if not mine:
            called = f" '{wanted}'" if wanted else ""
            raise RejectedError(
                Code.NOT_FOUND,
                f"'{name}' has no backup{called}",
                f"see `trilun backup list {name}`",
            )
    common = set.intersection(*({each.taken_at for each in mine} for mine in found.values()))
    if not common:
        times = "; ".join(
            f"{name}: {', '.join(f'{each.taken_at:.3f}' for each in mine)}"
            for name, mine in found.items()
        )
        called = f"backups '{wanted}'" if wanted else "backups"
        raise RejectedError(
            Code.WRONG_STATE,
            f"the {called} of these data sets were not taken at one instant (Unix time): {times}",
            "name another label, or restore each data set on its own",
        )
    first = next(iter(found.values()))
    instant = max((each for each in first if each.taken_at in common), key=lambda s: s.number)
    return {
        name: max((e for e in mine if e.taken_at == instant.taken_at), key=lambda s: s.number)
        for name, mine in found.items()
    }


def _candidates(slots: list[m.BackupInfo], wanted: str) -> list[m.BackupInfo]:
    """Backups of that name whose time is known."""
    backups = [slot for slot in slots if slot.is_backup and slot.taken_at > 0]
    if wanted:
        return [slot for slot in backups if slot.label == wanted]
    return [slot for slot in backups if not slot.undo_of]
