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
from controller.api.undo import undo_label
from controller.cli.backup import backup_table
from controller.cli.groups import find_group
from controller.cli.jobs import WAIT, report_job, start_job
from controller.cli.locate import choose_group_agent, find_agent, find_job
from controller.cli.names import Ref, complete_data_set, complete_job, parse_ref
from controller.cli.output import print_json
from controller.cli.results import report_change
from controller.cli.session import ApiCommand, Session
from controller.service.client import ApiClient, result_of

_JOB_ID = re.compile(r"(?:whole|restore|restore-group)-[0-9a-f]{10}")
_GROUP_JOB = f"{m.JobKind.GROUP_RESTORE}-"
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def HOW_KEPT(command: CommandT) -> CommandT:  # noqa: N802 - stands among constants like it
    """The options of a command that overwrites a volume."""
    keep = click.option(
        "--keep", type=click.IntRange(0, MAX_SLOTS), metavar="N",
        help="For the undo, overwrite the oldest backup that isn't one of the N newest.",
    )  # fmt: skip
    undoable = click.option(
        "--undoable/--no-undo", default=None,
        help="Refuse where what is overwritten can't be kept (default), or give it up.",
    )  # fmt: skip
    return keep(undoable(command))


def undo_policy(*, undoable: bool | None, keep: int | None) -> dict[str, Any]:
    """Those options as requests have them."""
    asked: dict[str, Any] = {"keep": keep}
    if undoable is not None:
        asked["undo"] = m.Undo.REQUIRED if undoable else m.Undo.NEVER
    return asked


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


async def restore_group(
    session: Session,
    client: ApiClient,
    group: m.GroupInfo,
    asked: m.GroupRestoreStart,
    wait: bool,
) -> m.JobInfo:
    """Start the restore of a group on the host 2 that has all of its data sets."""
    node = choose_group_agent(await client.discover(), group, "host2")
    verb = "job.restore_group"
    return await start_job(session, client, node, verb, asked, wait or asked.dry_run)


async def _find_all(client: ApiClient, which: str | None) -> list[tuple[str, str, str]]:
    """As `_find`, for each data set of a group's job."""
    if which is None or not which.startswith(_GROUP_JOB):
        return [await _find(client, which)]
    names = (await find_job(client, Ref(which))).data_sets
    return [(*await find_agent(client, "host2", name), which) for name in names]


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
        if which is not None and which.startswith(_GROUP_JOB):
            group = await find_group(client, Ref((await find_job(client, Ref(which))).data_set))
            whole = m.GroupRestoreStart(
                group=group.name,
                node=group.node,
                from_backup=undo_label(which),
                dry_run=dry_run,
                force=force,
                **undo_policy(**kept),
            )
            return await restore_group(session, client, group, whole, wait)
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

    async def work(client: ApiClient) -> list[m.Reply]:
        replies = []
        for node, name, job in await _find_all(client, which):
            params = m.UndoDrop(data_set=name, job=job)
            replies.append(await client.request(node, "undo.drop", params, session.timeout_s))
        return replies

    replies = session.run(work)
    if session.json and len(replies) > 1:
        print_json({"results": [result_of(reply, m.BackupList) for reply in replies]})
        return
    for reply in replies:
        report_change(
            session, reply, m.BackupList, "dropped", lambda found: backup_table(found.backups)
        )
