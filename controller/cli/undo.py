"""`trilun restore undo` and `drop-undo`: a restore of a whole volume is taken back, or stays.

Owns their arguments, and the options that say whether a restore keeps what it overwrites. Which
slot holds it is the agent's to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from controller.api import messages as m
from controller.api.backups import MAX_SLOTS
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.backup import backup_table
from controller.cli.jobs import WAIT, report_job, start_job
from controller.cli.locate import find_agent, find_job
from controller.cli.names import complete_data_set, complete_job, parse_ref
from controller.cli.results import report_change
from controller.cli.session import ApiCommand, Session
from controller.service.client import ApiClient

_JOB_ID = re.compile(r"(?:whole|restore)-[0-9a-f]{10}")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def HOW_KEPT(command: CommandT) -> CommandT:  # noqa: N802 - stands among constants like it
    """The options of a command that overwrites a volume."""
    keep = click.option(
        "--keep", type=click.IntRange(0, MAX_SLOTS), metavar="N",
        help="For the undo, overwrite the oldest backup that isn't one of the N newest.",
    )  # fmt: skip
    undoable = click.option(
        "--undoable/--no-undo", default=None,
        help="Refuse where what is overwritten can't be kept, or don't keep it; "
        "default: keep it where a slot is free.",
    )  # fmt: skip
    return keep(undoable(command))


def undo_policy(*, undoable: bool | None, keep: int | None) -> dict[str, Any]:
    """Those options as requests have them."""
    wanted = {None: m.Undo.AUTO, True: m.Undo.REQUIRED, False: m.Undo.NEVER}
    return {"undo": wanted[undoable], "keep": keep}


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    jobs = [name for name in complete_job(ctx, param, incomplete) if _JOB_ID.fullmatch(name)]
    names = [*jobs, *complete_data_set(ctx, param, incomplete)]
    return [CompletionItem(name) for name in names]


_WHICH = click.argument("which", metavar="[JOB|DATA_SET]", required=False, shell_complete=_complete)


async def _find(client: ApiClient, which: str | None) -> tuple[str, str, str]:
    """Host 2's agent, the data set, and the job to be undone (empty: the latest).

    A job may be forgotten while what it has overwritten is still there: then its data set is the
    only one there is.
    """
    data_set, job = which, ""
    if which is not None and _JOB_ID.fullmatch(which):
        data_set, job = None, which
        try:
            data_set = (await find_job(client, parse_ref(job))).data_set
        except RejectedError as exc:
            if exc.code is not Code.NOT_FOUND:
                raise
    node, name = await find_agent(client, "host2", data_set)
    return node, name, job


@click.command("undo", cls=ApiCommand)
@_WHICH
@HOW_KEPT
@click.option("--dry-run", is_flag=True, help="Show what is given up, change nothing.")
@click.option("--force", is_flag=True, help="Unmount on host 1 although it is in use.")
@WAIT
@click.pass_context
def undo(
    ctx: click.Context,
    /,
    which: str | None,
    dry_run: bool,
    force: bool,
    wait: bool,
    **kept: Any,
) -> None:
    """Bring a whole volume back to what it was before restore JOB, or before the latest one."""
    session = ctx.find_object(Session)
    assert session is not None

    async def work(client: ApiClient) -> m.JobInfo:
        node, name, job = await _find(client, which)
        params = m.UndoStart(
            data_set=name, job=job, dry_run=dry_run, force=force, **undo_policy(**kept)
        )
        return await start_job(session, client, node, "job.undo", params, wait or dry_run)

    report_job(ctx, session, session.run(work))


@click.command("drop-undo", cls=ApiCommand)
@_WHICH
@click.pass_obj
def drop_undo(session: Session, which: str | None) -> None:
    """Give up what restore JOB has overwritten: its slot is free for backups again."""

    async def work(client: ApiClient) -> m.Reply:
        node, name, job = await _find(client, which)
        params = m.UndoDrop(data_set=name, job=job)
        return await client.request(node, "undo.drop", params, session.timeout_s)

    report_change(
        session,
        session.run(work),
        m.BackupList,
        "dropped",
        lambda found: backup_table(found.backups),
    )
