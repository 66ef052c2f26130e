"""Which backups of several data sets are of one instant."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.jobs.instants import choose_instant

pytestmark = pytest.mark.plain


def slot(pair: str, number: int, at: float, label: str = "", **more: object) -> m.BackupInfo:
    fields = {"pair": pair, "volume": pair, "state": "PSUS", "is_backup": True, "label": label}
    return m.BackupInfo.model_validate({**fields, "number": number, "taken_at": at, **more})


UNDO = "before-restore-group-0123456789"
DATA = [
    slot("d3", 9, 30.0, UNDO, undo_of="restore-group-0123456789"),
    slot("d2", 3, 20.0, "tuesday"),
    slot("d1", 2, 10.0, "monday"),
]
LOG = [
    slot("l4", 9, 30.0, UNDO, undo_of="restore-group-0123456789"),
    slot("l3", 8, 25.0, "alone"),
    slot("l2", 7, 20.0, "tuesday"),
    slot("l1", 6, 10.0, "monday"),
]


def chosen(wanted: str, data: list[m.BackupInfo], log: list[m.BackupInfo]) -> tuple[str, str]:
    found = choose_instant({"data": data, "log": log}, wanted)
    return found["data"].pair, found["log"].pair


@pytest.mark.parametrize(
    ("wanted", "pairs"),
    [
        ("", ("d2", "l2")),
        ("monday", ("d1", "l1")),
        ("tuesday", ("d2", "l2")),
        (UNDO, ("d3", "l4")),
    ],
)
def test_the_label_or_the_newest_that_all_have(wanted: str, pairs: tuple[str, str]) -> None:
    assert chosen(wanted, DATA, LOG) == pairs


def test_of_several_the_newest_is_told_by_its_number() -> None:
    """A clock that was set back doesn't make an old backup the newest."""
    data = [slot("new", 2, 10.0, "x"), slot("old", 1, 20.0, "x")]
    log = [slot("old", 4, 20.0, "x"), slot("new", 5, 10.0, "x")]
    assert chosen("x", data, log) == chosen("", data, log) == ("new", "new")


@pytest.mark.parametrize(
    ("wanted", "log", "code", "says"),
    [
        ("sunday", LOG, Code.NOT_FOUND, "'data' has no backup 'sunday'"),
        ("monday", LOG[:3], Code.NOT_FOUND, "'log' has no backup 'monday'"),
        ("", [], Code.NOT_FOUND, "'log' has no backup"),
        ("", LOG[:2], Code.WRONG_STATE, "data: 20.000, 10.000; log: 25.000"),
        ("monday", [slot("l", 1, 10.5, "monday")], Code.WRONG_STATE, "data: 10.000; log: 10.500"),
        ("monday", [slot("l", 1, 0.0, "monday")], Code.NOT_FOUND, "'log' has no backup"),
        ("monday", [slot("l", 1, 10.0, "monday", is_backup=False)], Code.NOT_FOUND, "'log'"),
    ],
)
def test_what_is_no_one_instant_is_refused(
    wanted: str, log: list[m.BackupInfo], code: Code, says: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        chosen(wanted, DATA, log)
    assert caught.value.code is code
    assert says in caught.value.message
    assert caught.value.next_step
