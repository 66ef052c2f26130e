"""Any number of jobs fits into one message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.api import messages as m
from hostagent.jobs.brief import MAX_LIST_BYTES, brief, fitting
from hostagent.jobs.engine import MAX_ENDED, MAX_ENDED_LOOKS
from tests.nodes import job_info

MAX_PACKET_BYTES = 4 << 20


def large(path_bytes: int) -> m.JobInfo:
    """A restore of as many files as plans and receipts name, with paths of that length."""
    count = 1000
    path = "p" * path_bytes
    files = [m.RestoredFile(path=path, kind="file", size_bytes=1, digest="d" * 64)] * count
    conflict = m.ConflictInfo(path=path, changed="size", action="keep", kept_as=path)
    plan = m.RestorePlan(
        data_set="db",
        files=files,
        missing=[path] * count,
        bytes_to_copy=1,
        direction=m.Direction.REVERSE,
        rule="r",
        starting_point="in_sync",
        overwritten_bytes=0,
        union_bytes=0,
        conflicts=[conflict] * count,
        eta_s=1,
        steps=["plan"],
    )
    receipt = m.Receipt(
        job="job1",
        kind=m.JobKind.RESTORE,
        data_set="db",
        files=files,
        file_count=5000,
        conflicts=[conflict] * count,
        conflict_count=7000,
    )
    return job_info(plan=plan, receipt=receipt)


def test_every_job_an_agent_remembers_fits_into_one_answer() -> None:
    for path_bytes in (20, 200, 4000):
        jobs = [brief(large(path_bytes))] * (MAX_ENDED + MAX_ENDED_LOOKS + 1)
        assert len(m.JobList(jobs=jobs).model_dump_json()) < MAX_PACKET_BYTES, path_bytes


def test_numbers_stay() -> None:
    info = brief(large(100))
    assert info.receipt is not None
    assert (info.receipt.file_count, info.receipt.conflict_count) == (5000, 7000)
    assert 0 < len(info.receipt.files) < 100


def test_a_small_job_stays_as_it_is() -> None:
    info = job_info(receipt=m.Receipt(
        job="job1", kind=m.JobKind.RESTORE, data_set="db",
        files=[m.RestoredFile(path="a", kind="file", size_bytes=1)],
    ))  # fmt: skip
    assert brief(info) == info
    assert brief(job_info()) == job_info()


@given(st.lists(st.text()), st.integers(0, 100))
def test_what_fits_is_the_beginning(texts: list[str], limit_bytes: int) -> None:
    kept = fitting(texts, str, limit_bytes)
    assert texts[: len(kept)] == kept
    assert sum(len(text.encode()) for text in kept) <= limit_bytes
    if len(kept) < len(texts):
        assert sum(len(text.encode()) for text in texts[: len(kept) + 1]) > limit_bytes


def test_the_limit_is_of_bytes() -> None:
    assert len(fitting(["ü" * 1024] * 10, str, MAX_LIST_BYTES)) == 4
