"""`trilun job …`, and what every command does that starts a job.

Owns the arguments and the display of jobs. A job belongs to its agent: waiting for it here, or
not, changes nothing.
"""

from __future__ import annotations

import click
from rich.table import Table

from controller.api import messages as m
from controller.api.codes import Exit
from controller.cli.locate import find_job, live_jobs, offline, online
from controller.cli.names import Ref, RefType, complete_job
from controller.cli.output import (
    details,
    print_error,
    print_json,
    print_line,
    print_note,
    show,
    table,
)
from controller.cli.receipts import plan_parts, receipt_parts
from controller.cli.results import report_change
from controller.cli.session import ApiGroup, Session
from controller.cli.waiting import Teller, progress_text, wait_for_job
from controller.service.client import ApiClient, result_of

_JOB = click.argument("ref", metavar="JOB", type=RefType(), shell_complete=complete_job)
WAIT = click.option("--wait/--no-wait", "wait", default=True, help="Wait for the end (default).")


@click.group(cls=ApiGroup)
def job() -> None:
    """Jobs of the host agents: backups and restores."""


@job.command("list")
@click.pass_obj
def list_jobs(session: Session) -> None:
    """List the jobs of every agent that is online."""

    async def work(client: ApiClient) -> tuple[list[m.JobInfo], list[str]]:
        nodes = await client.discover()
        jobs = await live_jobs(client, online(nodes, m.NodeKind.AGENT))
        return jobs, offline(nodes, m.NodeKind.AGENT)

    jobs, away = session.run(work)
    if session.json:
        print_json({"jobs": jobs, "offline_nodes": away})
        return
    show(job_table(jobs))
    for name in away:
        print_note(f"agent '{name}' is offline, its jobs are not listed")


@job.command("show")
@_JOB
@click.pass_obj
def show_job(session: Session, ref: Ref) -> None:
    """Show one job, with its plan and receipt."""

    async def work(client: ApiClient) -> m.JobInfo:
        found = await find_job(client, ref)
        params = m.Named(name=ref.name)
        return await client.call_for(m.JobInfo, found.node, "job.show", params, session.timeout_s)

    info = session.run(work)
    if session.json:
        print_json(info)
    else:
        _show_job(info)


@job.command("wait")
@_JOB
@click.option(
    "--timeout", "wait_s", type=click.FloatRange(min=0.001), help="Seconds; else for ever."
)
@click.pass_context
def wait_job(ctx: click.Context, ref: Ref, wait_s: float | None) -> None:
    """Wait until a job has ended; the exit code says how."""
    session = ctx.find_object(Session)
    assert session is not None

    async def work(client: ApiClient) -> m.JobInfo:
        return await see_through(session, client, await find_job(client, ref), wait_s)

    report_job(ctx, session, session.run(work))


@job.command("cancel")
@_JOB
@click.pass_obj
def cancel(session: Session, ref: Ref) -> None:
    """Ask a job to stop and undo what it can."""

    async def work(client: ApiClient) -> m.Reply:
        found = await find_job(client, ref)
        params = m.Named(name=ref.name)
        return await client.request(found.node, "job.cancel", params, session.timeout_s)

    report_change(session, session.run(work), m.JobInfo, f"job '{ref.name}' is being cancelled")


@job.command("resume")
@_JOB
@WAIT
@click.pass_context
def resume(ctx: click.Context, ref: Ref, wait: bool) -> None:
    """Go on with a job that failed where only forward was possible."""
    session = ctx.find_object(Session)
    assert session is not None

    async def work(client: ApiClient) -> m.JobInfo:
        node = (await find_job(client, ref)).node
        params = m.Named(name=ref.name)
        return await start_job(session, client, node, "job.resume", params, wait)

    report_job(ctx, session, session.run(work))


async def start_job(
    session: Session, client: ApiClient, node: str, verb: str, params: m.Params, wait: bool
) -> m.JobInfo:
    """Start a job, and see it to its end when that is wanted."""
    reply = await client.request(node, verb, params, session.timeout_s)
    started = result_of(reply, m.JobInfo)
    return await see_through(session, client, started) if wait else started


async def see_through(
    session: Session, client: ApiClient, job_info: m.JobInfo, wait_s: float | None = None
) -> m.JobInfo:
    """Tell of a job's progress until it has ended."""
    session.say_on_interrupt(f"job '{job_info.id}' goes on", f"trilun job wait {job_info.id}")
    what = f"{job_info.kind.value} {job_info.id}"
    with Teller(what, silent=session.json) as teller:
        return await wait_for_job(client, job_info, wait_s, teller)


def report_job(ctx: click.Context, session: Session, info: m.JobInfo) -> None:
    """Print a job as far as it has come; a failed one ends the command with its exit code."""
    failed = info.state in {m.JobState.FAILED, m.JobState.CANCELLED}
    if session.json:
        print_json(info)
    elif info.state is m.JobState.RUNNING:
        print_line(info.id)
    elif failed:
        why = info.error or info.message or "no reason given"
        print_error(
            info.code.value, f"job '{info.id}' {info.state.value}: {why}", info.next_step,
            as_json=False,
        )  # fmt: skip
    elif info.receipt is not None:
        show(*receipt_parts(info.receipt))
    elif info.plan is not None:
        show(*plan_parts(info.plan))
    else:
        print_line(f"job '{info.id}' done")
    if failed:
        ctx.exit(Exit.FAILED)


def job_table(jobs: list[m.JobInfo]) -> Table:
    """Jobs, a line each, the latest first."""
    return table(
        ("JOB", "AGENT", "KIND", "DATA SET", "STATE", "STEP", "PROGRESS"),
        [
            (
                j.id,
                j.node,
                j.kind.value,
                j.data_set,
                j.state.value,
                j.step,
                progress_text(j.progress) or "-",
            )
            for j in sorted(jobs, key=lambda j: -j.started_at)
        ],
    )


def _show_job(info: m.JobInfo) -> None:
    show(
        details(
            [
                ("job", info.id),
                ("agent", info.node),
                ("kind", info.kind.value),
                ("data set", ", ".join(info.data_sets) or info.data_set),
                ("group", info.data_set if info.data_sets else ""),
                ("state", info.state.value),
                ("step", info.step),
                ("steps", ", ".join(info.steps)),
                ("message", info.message),
                ("progress", progress_text(info.progress)),
                ("error", info.error),
                ("next", info.next_step),
            ]
        )
    )
    if info.receipt is not None:
        show(*receipt_parts(info.receipt))
    elif info.plan is not None:
        show(*plan_parts(info.plan))
