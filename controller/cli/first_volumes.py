"""`trilun fs …`: the first volume of a data set, as host 1 has it.

Owns the arguments, and the operator's way to give host 1 back what a job has left released. Must
not take it from a job that runs: that job gives it back itself, when it is safe.
"""

from __future__ import annotations

import click

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.locate import find_agent, find_job
from controller.cli.names import Ref, RefType, complete_data_set, complete_job
from controller.cli.output import details, print_json, show
from controller.cli.results import report_change
from controller.cli.session import ApiGroup, Session
from controller.service.client import ApiClient


@click.group("fs", cls=ApiGroup)
def fs() -> None:
    """The file system of a data set, on host 1."""


@fs.command("show")
@click.argument("data_set", required=False, shell_complete=complete_data_set)
@click.pass_obj
def show_fs(session: Session, data_set: str | None) -> None:
    """Show whether host 1 has DATA_SET mounted, or for which job it is released."""

    async def work(client: ApiClient) -> m.HostFs:
        node, name = await find_agent(client, "host1", data_set)
        params = m.DataSetNamed(data_set=name)
        return await client.call_for(m.HostFs, node, "fs.show", params, session.timeout_s)

    info = session.run(work)
    if session.json:
        print_json(info)
    else:
        show(details(_rows(info)))


def _rows(info: m.HostFs) -> list[tuple[str, str]]:
    rows = [
        ("data set", info.data_set),
        ("mountpoint", info.mountpoint),
        ("mounted", "yes" if info.mounted else "no"),
    ]
    if info.frozen:
        rows.append(("frozen", f"{info.elapsed_s:.1f} s"))
    if info.released_for:
        rows.append(("released for", info.released_for))
    return rows


@fs.command("reclaim")
@click.argument("data_set", shell_complete=complete_data_set)
@click.option(
    "--job",
    "ref",
    metavar="JOB",
    type=RefType(),
    required=True,
    shell_complete=complete_job,
    help="The job that it was released for.",
)
@click.option("--force", is_flag=True, help="Although that job is said to run.")
@click.pass_obj
def reclaim(session: Session, data_set: str, ref: Ref, force: bool) -> None:
    """Let host 1 attach and mount DATA_SET again, which JOB has left released.

    Nothing is mounted before its controller lets hosts write to the first volume.
    """

    async def work(client: ApiClient) -> m.Reply:
        if not force:
            await _refuse_running(client, ref)
        node, name = await find_agent(client, "host1", data_set)
        params = m.FsReclaim(data_set=name, job=ref.name)
        return await client.request(node, "fs.reclaim", params, session.timeout_s)

    report_change(session, session.run(work), m.HostFs, f"host 1 has '{data_set}' again")


async def _refuse_running(client: ApiClient, ref: Ref) -> None:
    try:
        job = await find_job(client, ref)
    except RejectedError as exc:
        if exc.code is not Code.NOT_FOUND:
            raise
        return
    if job.state is m.JobState.RUNNING:
        raise RejectedError(
            Code.IN_USE,
            f"job '{job.id}' on '{job.node}' is at '{job.step}', and gives it back itself",
            f"wait for it, or undo it: trilun job cancel {job.id}; --force where that agent never "
            "comes back",
        )
