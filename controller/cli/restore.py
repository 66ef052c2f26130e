"""`trilun restore`: files come back from the backup, or whole volumes.

Owns the arguments. Paths and patterns are the agent's to understand: nothing is looked up here
but the data set. `trilun restore undo` and `drop-undo` are commands of their own: a file of that
name is restored with `trilun restore -- undo`.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.restores import DEADLINE_S, MAX_DEADLINE_S
from controller.cli.groups import find_group, live_groups, refuse_group_called
from controller.cli.jobs import WAIT, report_job, start_job
from controller.cli.locate import find_agent
from controller.cli.names import complete_data_set, parse_ref
from controller.cli.session import ApiCommand, ApiGroup, Session, usage_error
from controller.cli.undo import HOW_KEPT, drop_undo, restore_group, undo, undo_policy
from controller.service.client import ApiClient

CONFLICTS = click.Choice([policy.value for policy in m.Conflict])


_FILES = "PATH..."
"""How the command without a name of its own is known inside: no name anybody would type."""
_SEE_ALSO = "See also: trilun restore undo --help, trilun restore drop-undo --help."


class _GroupsOwnContext(click.Context):
    """Messages name `trilun restore`, and no command beneath it."""

    @property
    def command_path(self) -> str:
        assert self.parent is not None
        return self.parent.command_path


class RestoreCommand(ApiCommand):
    """What `trilun restore` is without the name of another command."""

    context_class = _GroupsOwnContext


class RestoreGroup(ApiGroup):
    """A group that restores files unless another command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name in front where there is none."""
        named = args and args[0] in self.commands
        if not named and not (ctx.resilient_parsing and not args):
            args = [_FILES, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and what a restore of files takes."""
        files = self.commands[_FILES]
        own = files.make_context(_FILES, [], parent=ctx, resilient_parsing=True)
        return super().shell_complete(ctx, incomplete) + files.shell_complete(own, incomplete)


@click.group("restore", cls=RestoreGroup)
def restore() -> None:
    """Bring files, or the whole volume, back from a backup; `restore undo` takes that back."""


@restore.command(_FILES, cls=RestoreCommand, hidden=True, epilog=_SEE_ALSO)
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option("--data-set", help="Where no PATH is an absolute one that tells it.",
              shell_complete=complete_data_set)  # fmt: skip
@click.option("--to", "to", metavar="DIR", default="",
              help="Put the files beneath DIR of the data set, paths kept.")  # fmt: skip
@click.option("--conflict", type=CONFLICTS, default=None,
              help="For files changed since the backup; default: keep-both.")  # fmt: skip
@click.option("--verify", is_flag=True,
              help="Compare all that comes back; always done but for --whole.")  # fmt: skip
@click.option("--from", "from_backup", metavar="LABEL|PAIR", default="",
              help="Which backup; default: the newest. See `trilun backup list`.")  # fmt: skip
@click.option("--whole", is_flag=True,
              help="The whole volume, by bitmaps; PATH names the data set or group.")  # fmt: skip
@HOW_KEPT
@click.option("--deadline", type=click.FloatRange(0.1, MAX_DEADLINE_S), default=None,
              metavar="SECONDS",
              help="Group: for all to be ready before any is overwritten.")  # fmt: skip
@click.option("--discard-writes", is_flag=True,
              help="Of a pair that is split: lose what was written on the first.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the plan, change nothing.")
@click.option("--force", is_flag=True, help="Unmount on host 1 although it is in use.")
@WAIT
@click.pass_context
def restore_files(
    ctx: click.Context,
    /,
    paths: tuple[str, ...],
    data_set: str | None,
    to: str,
    conflict: str | None,
    whole: bool,
    deadline: float | None,
    undoable: bool | None,
    keep: int | None,
    wait: bool,
    **common: Any,
) -> None:
    """Bring PATHs back from the backup: files, directories, or patterns; or the whole volume.

    Quote patterns: 'books/*.dat' is looked up in the backup, not by your shell.
    """
    session = ctx.find_object(Session)
    assert session is not None
    names = list(paths)
    common |= undo_policy(undoable=undoable, keep=keep)
    if whole and len(names) == 1 and data_set is None:
        data_set = names.pop()
    if whole == bool(names):
        raise click.UsageError(
            "--whole takes no files." if whole else "Missing argument 'PATH...', or --whole."
        )

    async def work(client: ApiClient) -> m.JobInfo:
        group = await _group(client, data_set) if whole and data_set is not None else None
        if group is not None:
            asked = m.GroupRestoreStart(
                group=group.name,
                node=group.node,
                deadline_s=deadline or DEADLINE_S,
                **common,
            )
            return await restore_group(session, client, group, asked, wait)
        if deadline is not None:
            raise usage_error("--deadline is for a group")
        node, name = await find_agent(client, "host2", data_set, [*names, to])
        params = m.RestoreStart(
            data_set=name,
            paths=names,
            whole=whole,
            to=to,
            conflict=None if conflict is None else m.Conflict(conflict),
            **common,
        )
        return await start_job(session, client, node, "job.restore", params, wait or params.dry_run)

    report_job(ctx, session, session.run(work))


async def _group(client: ApiClient, name: str) -> m.GroupInfo | None:
    """The group that is meant: NODE/NAME, or a name that is no data set's."""
    if "/" in name:
        try:
            return await find_group(client, parse_ref(name))
        except ValueError as exc:
            raise usage_error(str(exc)) from exc
    try:
        _, data_set = await find_agent(client, "host2", name)
    except RejectedError as exc:
        if exc.code is not Code.NOT_FOUND:
            raise
        return next((group for group in await live_groups(client) if group.name == name), None)
    if data_set != name:
        await refuse_group_called(client, name, data_set)
    return None


restore.add_command(undo)
restore.add_command(drop_undo)
