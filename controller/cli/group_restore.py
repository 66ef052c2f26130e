"""`trilun restore --whole GROUP`: all data sets of a group go back to one instant.

Owns the order of things across the jobs: every data set has a backup of that label and of one
time, every job's dry run says that it could be done, and only then are they begun, all at once.
A job belongs to its agent, and each goes on, or is undone, as its own; what became of each is
said. Raises RejectedError, before anything was begun.
"""

from __future__ import annotations

import asyncio

import click

from controller.api import messages as m
from controller.api.codes import Code, Exit
from controller.api.errors import RejectedError
from controller.cli.jobs import see_through, start_job
from controller.cli.locate import choose_agent
from controller.cli.output import print_error, print_json, print_line, print_note, show
from controller.cli.receipts import plan_parts, receipt_parts
from controller.cli.session import Session, usage_error
from controller.service.client import ApiClient

_GOOD = {m.JobState.RUNNING, m.JobState.DONE}


async def restore_group(
    session: Session,
    client: ApiClient,
    group: m.GroupInfo,
    asked: m.RestoreStart,
    wait: bool,
) -> list[m.JobInfo]:
    """The jobs of all data sets, ended where that was waited for; the dry runs' if one fails."""
    if not asked.from_backup:
        raise usage_error("a group is restored from one label: --from LABEL")
    members = await _members(client, group)
    slots = await asyncio.gather(
        *(_slot(session, client, node, name, asked.from_backup) for node, name in members)
    )
    if len({slot.taken_at for slot in slots}) > 1:
        times = "; ".join(
            f"{name}: {slot.taken_at:.3f}" for (_, name), slot in zip(members, slots, strict=True)
        )
        raise RejectedError(
            Code.WRONG_STATE,
            f"the backups '{asked.from_backup}' of group '{group.name}' were not taken at one "
            f"instant (Unix time): {times}",
            "name another label, or restore each data set on its own",
        )

    planned = await _run(session, client, members, slots, asked, dry_run=True)
    if asked.dry_run or not all(job.state in _GOOD for job in planned):
        return planned
    return await _run(session, client, members, slots, asked, wait=wait)


async def _run(
    session: Session,
    client: ApiClient,
    members: list[tuple[str, str]],
    slots: list[m.BackupInfo],
    asked: m.RestoreStart,
    *,
    dry_run: bool = False,
    wait: bool = True,
) -> list[m.JobInfo]:
    """Begin a job of each data set, then see them through."""
    jobs: list[m.JobInfo] = []
    for (node, name), slot in zip(members, slots, strict=True):
        own = {"data_set": name, "from_backup": slot.pair, "dry_run": dry_run}
        params = asked.model_copy(update=own)
        try:
            jobs.append(await start_job(session, client, node, "job.restore", params, wait=False))
        except RejectedError as exc:
            begun = ", ".join(job.id for job in jobs) or "none"
            raise RejectedError(
                exc.code, f"'{name}' can't be restored: {exc.message} (jobs begun: {begun})",
                exc.next_step,
            ) from exc  # fmt: skip
    return [await see_through(session, client, job) for job in jobs] if wait else jobs


async def _members(client: ApiClient, group: m.GroupInfo) -> list[tuple[str, str]]:
    """The agent of host 2 and the data set behind each pair of the group."""
    nodes = await client.discover()
    names = {
        ref.remote_pair: ref.name
        for status in nodes.values()
        for ref in status.data_sets
        if status.kind is m.NodeKind.AGENT and ref.part == "host2" and ref.primary == group.node
    }
    missing = [pair for pair in group.pairs if pair not in names]
    if missing:
        raise RejectedError(
            Code.NOT_FOUND,
            f"no agent serves as host 2 the data sets of these pairs of group '{group.name}': "
            f"{', '.join(missing)}",
            "start trilun-agent there, or look at its configuration",
        )
    return [choose_agent(nodes, "host2", names[pair]) for pair in group.pairs]


async def _slot(
    session: Session, client: ApiClient, node: str, name: str, label: str
) -> m.BackupInfo:
    """The newest backup of that label."""
    params = m.DataSetNamed(data_set=name)
    found = await client.call_for(m.BackupList, node, "backup.list", params, session.timeout_s)
    labelled = [slot for slot in found.backups if slot.is_backup and slot.label == label]
    if not labelled:
        raise RejectedError(
            Code.NOT_FOUND,
            f"'{name}' has no backup '{label}'",
            f"see `trilun backup list {name}`",
        )
    return labelled[0]


def report_jobs(ctx: click.Context, session: Session, jobs: list[m.JobInfo]) -> None:
    """Print what became of each; where one failed, what to do about it, and the exit code."""
    failed = [job for job in jobs if job.state not in _GOOD]
    if session.json:
        print_json({"jobs": jobs})
    else:
        for job in jobs:
            _show(job)
        for job in failed:
            print_error(
                job.code.value,
                f"'{job.data_set}' is not restored: job '{job.id}' {job.state.value}: {job.error}",
                job.next_step,
                as_json=False,
            )
        restored = [job.data_set for job in jobs if job.receipt is not None]
        if failed and restored:
            print_note(
                f"restored: {', '.join(restored)}; use none of them together before the others "
                "are: trilun restore --whole --from LABEL DATA_SET"
            )
        elif failed:
            print_note("nothing was restored")
    if failed:
        ctx.exit(Exit.FAILED)


def _show(job: m.JobInfo) -> None:
    if job.state is m.JobState.RUNNING:
        print_line(job.id)
    elif job.receipt is not None:
        show(*receipt_parts(job.receipt))
    elif job.plan is not None:
        show(*plan_parts(job.plan))
