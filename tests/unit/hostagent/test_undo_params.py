"""What an undo's job is told: above all whether anybody still counts what was written since."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from hostagent.jobs.dropping import group_restore_params, undo_params
from tests.nodes import job_info

pytestmark = pytest.mark.plain

JOB = "whole-0123456789"
SLOT = m.BackupInfo(
    pair="lp2", volume="v4", state="PSUS", is_backup=True, label=f"before-{JOB}", undo_of=JOB
)


def job(name: str, started_at: float, **more: object) -> m.JobInfo:
    receipt = m.Receipt(
        job=name, kind=m.JobKind.WHOLE, data_set="ds", backup_pair="lp", backup_at=5.0
    )
    fields = {"kind": m.JobKind.WHOLE, "state": m.JobState.DONE, "receipt": receipt, **more}
    return job_info(name).model_copy(update={"started_at": started_at, **fields})


def restored_from(*known: m.JobInfo) -> object:
    params = undo_params(SLOT, m.UndoStart(data_set="ds", keep=2), list(known))
    assert (params["from_backup"], params["undoes"], params["keep"]) == ("lp2", JOB, 2)
    assert params["undo"] == "auto"
    return params["restored_from"]


def test_the_restore_itself_tells_which_backup_counts() -> None:
    assert restored_from(job(JOB, 10)) == ["lp", 5.0]
    assert restored_from(job("whole-aaaaaaaaaa", 9), job(JOB, 10)) == ["lp", 5.0]
    looked = job("whole-bbbbbbbbbb", 11, receipt=None)
    files = job("restore-cccccccccc", 11, kind=m.JobKind.RESTORE)
    assert restored_from(job(JOB, 10), looked, files) == ["lp", 5.0], "a dry run copies nothing"


def test_a_later_restore_of_a_whole_volume_counts_anew() -> None:
    for later in (
        job("whole-aaaaaaaaaa", 11),
        job("whole-aaaaaaaaaa", 11, receipt=None, state=m.JobState.FAILED),
        job("whole-aaaaaaaaaa", 11, receipt=None, state=m.JobState.CANCELLED),
        job("restore-group-aaaaaaaaaa", 11, kind=m.JobKind.GROUP_RESTORE),
    ):
        assert restored_from(job(JOB, 10), later) is None


def test_a_restore_that_is_forgotten_or_has_no_receipt_tells_nothing() -> None:
    assert restored_from() is None
    assert restored_from(job(JOB, 10, receipt=None)) is None


def test_the_restore_of_a_group_from_what_one_has_overwritten_is_its_undo() -> None:
    job = "restore-group-0123456789"
    asked = m.GroupRestoreStart(group="g", node="c1", from_backup=f"before-{job}", keep=1)
    params = group_restore_params(asked)
    assert (params["undoes"], params["why"]) == (job, f"restore {job} is undone")
    assert (params["undo"], params["keep"], params["node"]) == ("required", 1, "c1")
    params = group_restore_params(m.GroupRestoreStart(group="g", node="c1", from_backup="monday"))
    assert "undoes" not in params
    assert "group" not in params
