"""Jobs cut down to what fits into one message with all the others.

Pure. Owns how much of a job's lists a listing has; `job.show` has them in full. The numbers in
plans and receipts always cover everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from controller.api import messages as m

T = TypeVar("T")

MAX_LIST_BYTES = 8 << 10
"""Of JSON, in each list of each job: some 50 jobs with five lists stay below 4 MiB."""


def brief(info: m.JobInfo) -> m.JobInfo:
    """A job as listings have it."""
    plan, receipt = info.plan, info.receipt
    if plan is not None:
        plan = plan.model_copy(
            update={
                "files": fitting(plan.files, _json, MAX_LIST_BYTES),
                "missing": fitting(plan.missing, json.dumps, MAX_LIST_BYTES),
                "conflicts": fitting(plan.conflicts, _json, MAX_LIST_BYTES),
            }
        )
    if receipt is not None:
        receipt = receipt.model_copy(
            update={
                "files": fitting(receipt.files, _json, MAX_LIST_BYTES),
                "conflicts": fitting(receipt.conflicts, _json, MAX_LIST_BYTES),
            }
        )
    return info.model_copy(update={"plan": plan, "receipt": receipt})


def _json(info: m.Info) -> str:
    return info.model_dump_json()


def fitting(items: Sequence[T], text: Callable[[T], str], limit_bytes: int) -> list[T]:
    """The first items whose texts together have at most so many bytes."""
    kept: list[T] = []
    for item in items:
        limit_bytes -= len(text(item).encode())
        if limit_bytes < 0:
            break
        kept.append(item)
    return kept
