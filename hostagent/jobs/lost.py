"""Jobs whose record is there, and which nobody can go on with.

Pure. Owns how they are shown: failed, with what is left to do. The first volume may be released for
such a job, so it must not vanish. Must not be asked of jobs that have ended for good.
"""

from __future__ import annotations

from controller.api.codes import Code
from controller.api.messages import JobInfo, JobKind, JobState

UNKNOWN = "unknown"


def unreadable(node: str, job: str, path: str, problem: str) -> JobInfo | None:
    """A job of which only the name is known; None where that is no job's."""
    kind = job.rpartition("-")[0]
    if kind not in set(JobKind):
        return None
    return JobInfo(
        id=job,
        kind=JobKind(kind),
        data_set=UNKNOWN,
        node=node,
        state=JobState.FAILED,
        step=UNKNOWN,
        steps=[UNKNOWN],
        started_at=0.0,
        error=f"its record can't be read ({problem}), so nobody goes on with it or undoes it",
        code=Code.INTERNAL,
        next_step=f"{_give_back('DATA_SET', job)}; then remove {path} and restart the agent",
    )


def of_unknown_data_set(info: JobInfo, data_set: str) -> JobInfo:
    """A job whose data set the configuration doesn't name any more."""
    return info.model_copy(
        update={
            "state": JobState.FAILED,
            "error": f"data set '{data_set}' is not in the configuration of '{info.node}' any more",
            "code": Code.WRONG_STATE,
            "next_step": "put it back under that name and restart the agent, then the job can be "
            f"gone on with; or {_give_back(data_set, info.id)}",
        }
    )


def _give_back(data_set: str, job: str) -> str:
    return (
        "see with `trilun fs show` whether host 1 has its volume, and give it back with "
        f"`trilun fs reclaim {data_set} --job {job}`"
    )
