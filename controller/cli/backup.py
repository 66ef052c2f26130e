"""`trilun backup`: take a backup, list those there are.

Owns the arguments and the display of backups, and what a name means: a data set, by its name or
its remote pair's, else a group; NODE/NAME is a group, else a remote pair. Which slot a backup
takes is the agent's to decide. `trilun backup NAME` is `trilun backup take NAME`.
"""

from __future__ import annotations

import time
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich.table import Table

from controller.api import messages as m
from controller.api.backups import MAX_SLOTS
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.groups import complete_group, find_group, live_groups, refuse_group_called
from controller.cli.jobs import WAIT, report_job, start_job
from controller.cli.locate import choose_group_agent, data_set_called, find_agent
from controller.cli.names import Ref, RefType, complete_data_set, complete_remote_pair
from controller.cli.output import print_json, show, table
from controller.cli.session import ApiGroup, Session, usage_error
from controller.service.client import ApiClient
from controller.service.sizes import format_size

TAKE = "take"


class BackupGroup(ApiGroup):
    """A group that takes a backup unless another command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name in front where it was left out."""
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        if not named and not (ctx.resilient_parsing and not args):
            args = [TAKE, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, data sets, their remote pairs, and groups."""
        names = complete_target(ctx, click.Argument(["name"]), incomplete)
        return super().shell_complete(ctx, incomplete) + [CompletionItem(name) for name in names]


@click.group(cls=BackupGroup)
def backup() -> None:
    """Backups: `trilun backup [DATA_SET|PAIR|GROUP]` takes one."""


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """What can be backed up."""
    every = (complete_data_set, complete_remote_pair, complete_group)
    return sorted({name for each in every for name in each(ctx, param, incomplete)})


@backup.command(TAKE)
@click.argument("target", metavar="[DATA_SET|[NODE/]PAIR|[NODE/]GROUP]", required=False,
                type=RefType(), shell_complete=complete_target)  # fmt: skip
@click.option("--label", default="", help="Remembered with the backup.")
@click.option("--keep", type=click.IntRange(0, MAX_SLOTS), metavar="N",
              help="Never overwrite the N newest; default 1, or 0 with a single slot.")  # fmt: skip
@click.option("--quiesce/--no-quiesce", default=True, help="Freeze the file system (default).")
@click.option("--split-remote", is_flag=True, help="Split the remote pair at that instant, too.")
@click.option("--quick", is_flag=True,
              help="Split at once, and copy what differs behind it.")  # fmt: skip
@click.option("--deadline", type=click.FloatRange(0.1, 600), default=None, metavar="SECONDS",
              help="Group: for all to confirm; else as long as a freeze may last.")  # fmt: skip
@WAIT
@click.pass_context
def take(
    ctx: click.Context,
    /,
    target: Ref | None,
    wait: bool,
    deadline: float | None,
    quick: bool,
    **asked: Any,
) -> None:
    """Take a backup of a data set (needs no name when there is only one), or of a GROUP.

    PAIR is a data set's remote pair, and stands for it.

    The backups of all data sets of a group hold one instant, and there are all of them or none.
    """
    session = ctx.find_object(Session)
    assert session is not None

    async def work(client: ApiClient) -> m.JobInfo:
        found = await _data_set(client, target)
        if isinstance(found, Ref):
            group = await find_group(client, found)
            if quick:
                raise _no_quick_group(group.name)
            node = choose_group_agent(await client.discover(), group)
            whole = m.GroupBackupStart(
                group=group.name, node=group.node, deadline_s=deadline, **asked
            )
            return await start_job(session, client, node, "job.backup_group", whole, wait)
        if deadline is not None:
            raise usage_error("--deadline is for a group")
        node, data_set = found
        params = m.BackupStart(data_set=data_set, quick=quick, **asked)
        return await start_job(session, client, node, "job.backup", params, wait)

    report_job(ctx, session, session.run(work))


def _no_quick_group(name: str) -> RejectedError:
    return RejectedError(
        Code.BAD_REQUEST,
        f"the backup of group '{name}' can't be quick: a quick split is a backup from its instant "
        "on, and the backups of a group are none before all of them can be",
        "take it without --quick, which waits for what differs in its slots (`trilun backup list`)"
        ", or back each data set up on its own with --quick",
    )


async def _data_set(client: ApiClient, target: Ref | None) -> tuple[str, str] | Ref:
    """The agent and the data set that is meant, or the group."""
    if target is not None and target.node is not None:
        return await _of_node(client, target, target.node)
    try:
        node, name = await find_agent(client, "host1", None if target is None else target.name)
    except RejectedError as exc:
        if target is None or exc.code is not Code.NOT_FOUND:
            raise
        if not any(group.name == target.name for group in await live_groups(client)):
            raise RejectedError(
                exc.code,
                f"there is no data set, no remote pair of one and no group '{target}'",
                f"{exc.next_step}; groups: trilun group list",
            ) from None
        return target
    if target is not None and target.name != name:
        await refuse_group_called(client, target.name, name)
    return node, name


async def _of_node(client: ApiClient, target: Ref, primary: str) -> tuple[str, str] | Ref:
    """NODE/NAME: the group, or the data set of the remote pair."""
    groups = [(group.node, group.name) for group in await live_groups(client)]
    if (primary, target.name) in groups:
        return target
    name = data_set_called(await client.discover(), target.name, primary)
    return target if name == target.name else await find_agent(client, "host1", name)


@backup.command("list")
@click.argument("data_set", required=False, shell_complete=complete_data_set)
@click.pass_obj
def list_backups(session: Session, data_set: str | None) -> None:
    """List the backups of DATA_SET, the newest first, and what the other slots are."""

    async def work(client: ApiClient) -> m.BackupList:
        try:
            node, name = await find_agent(client, "host1", data_set)
        except RejectedError as exc:
            if exc.code is not Code.UNREACHABLE:
                raise
            node, name = await find_agent(client, "host2", data_set)
        params = m.DataSetNamed(data_set=name)
        return await client.call_for(m.BackupList, node, "backup.list", params, session.timeout_s)

    found = session.run(work)
    if session.json:
        print_json(found)
    else:
        show(backup_table(found.backups))


def backup_table(backups: list[m.BackupInfo]) -> Table:
    """Slots, a line each."""
    return table(
        ("NAME", "VOLUME", "LABEL", "TIME", "STATE", "WRITTEN SINCE", "NEXT"),
        [
            (
                each.pair,
                each.volume,
                each.label or "-",
                moment(each.taken_at) if each.is_backup else "-",
                state_of(each),
                written_since(each),
                next_step(each),
            )
            for each in backups
        ],
        right="WRITTEN SINCE",
    )


def moment(unix_s: float) -> str:
    """A time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s)) if unix_s else "unknown"


def state_of(slot: m.BackupInfo) -> str:
    """The pair's state, and what the slot holds if that is no backup."""
    if slot.undo_of:
        return f"{slot.state}, before {slot.undo_of}"
    if slot.behind:
        return f"{slot.state}, being copied"
    return slot.state if slot.is_backup else f"{slot.state}, no backup"


def written_since(slot: m.BackupInfo) -> str:
    """While a quick backup is copied, marks stand for what is left of that, too."""
    return format_size(slot.dirty_bytes) if slot.is_backup and not slot.behind else "-"


def next_step(slot: m.BackupInfo) -> str:
    """What an operator can do with a slot."""
    if slot.next_step:
        return slot.next_step
    if slot.undo_of:
        return f"trilun restore undo {slot.undo_of}"
    return f"trilun restore --from {slot.pair} PATH..." if slot.is_backup else "-"
