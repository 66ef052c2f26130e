"""`trilun db …`: the databases of a data set, on host 1.

Owns the arguments, and how databases are shown. Must not wait for what it was not asked to.
"""

from __future__ import annotations

import asyncio

import click
from rich.table import Table

from controller.api import messages as m
from controller.api.codes import Exit
from controller.cli.locate import find_agent
from controller.cli.names import complete_data_set
from controller.cli.output import details, print_json, print_line, show, table
from controller.cli.session import ApiGroup, Session
from controller.service.client import ApiClient

POLL_S = 0.5

_DATA_SET = click.argument("data_set", required=False, shell_complete=complete_data_set)


def database_parts(databases: list[m.DatabaseInfo]) -> list[Table]:
    """Databases, a line each, and below what went wrong and what to do about it."""
    lines = table(
        ("DATABASE", "KIND", "PATH", "STATE", "DONE", "RECOVERY", "CHECK"),
        [
            (
                one.name,
                one.kind,
                one.path or ".",
                one.state.value,
                one.done or "-",
                f"{one.recover_s:.1f} s" if one.recover_s else "-",
                f"{one.check_s:.1f} s" if one.check_s else "-",
            )
            for one in databases
        ],
    )
    failed = [one for one in databases if one.error]
    rows = [row for one in failed for row in ((one.name, one.error), ("next", one.next_step))]
    return [lines, details(rows)] if rows else [lines]


@click.group("db", cls=ApiGroup)
def db() -> None:
    """The databases of a data set, on host 1."""


@db.command("show")
@_DATA_SET
@click.pass_obj
def show_databases(session: Session, data_set: str | None) -> None:
    """Show the databases of DATA_SET, and how their last recovery went."""

    async def work(client: ApiClient) -> m.RecoveryInfo:
        node, name = await find_agent(client, "host1", data_set)
        return await _asked(client, node, name, session.timeout_s)

    _report(session, session.run(work))


@db.command("check")
@_DATA_SET
@click.option("--wait/--no-wait", "wait", default=True, help="Wait for the end (default).")
@click.pass_context
def check_databases(ctx: click.Context, data_set: str | None, wait: bool) -> None:
    """Start the databases of DATA_SET that don't run, and check all."""
    session = ctx.find_object(Session)
    assert session is not None

    async def work(client: ApiClient) -> m.RecoveryInfo:
        node, name = await find_agent(client, "host1", data_set)
        session.say_on_interrupt("the check goes on", f"trilun db show {name}")
        params = m.DbRecover(data_set=name)
        timeout_s = session.timeout_s
        info = await client.call_for(m.RecoveryInfo, node, "db.recover", params, timeout_s)
        while wait and info.running:
            await asyncio.sleep(POLL_S)
            info = await _asked(client, node, name, timeout_s)
        return info

    info = session.run(work)
    _report(session, info)
    if any(one.state is m.DatabaseState.FAILED for one in info.databases):
        ctx.exit(Exit.FAILED)


async def _asked(client: ApiClient, node: str, name: str, timeout_s: float) -> m.RecoveryInfo:
    params = m.DataSetNamed(data_set=name)
    return await client.call_for(m.RecoveryInfo, node, "db.show", params, timeout_s)


def _report(session: Session, info: m.RecoveryInfo) -> None:
    if session.json:
        print_json(info)
    elif info.databases:
        show(*database_parts(info.databases))
    else:
        print_line(f"data set '{info.data_set}' has no databases")
