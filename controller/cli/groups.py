"""`trilun group …`.

Owns the arguments and the display of consistency groups, and where to find one. Must not know what
a controller accepts.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click
from rich.table import Table

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.locate import find_pair, online
from controller.cli.names import PAIR_STATES, Ref, RefType, complete_pair, root_session
from controller.cli.output import print_json, print_line, show, table
from controller.cli.results import report_change
from controller.cli.session import ApiGroup, Session, quietly
from controller.cli.waiting import Teller
from controller.service.client import ApiClient
from controller.service.sizes import format_size

_LIVE_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.5


async def live_groups(client: ApiClient) -> list[m.GroupInfo]:
    """The groups of every controller that is online."""
    nodes = online(await client.discover(), m.NodeKind.CONTROLLER)
    answers = await asyncio.gather(
        *(
            client.call_for(m.GroupList, node, "group.list", m.Empty(), _LIVE_TIMEOUT_S)
            for node in nodes
        )
    )
    return [group for answer in answers for group in answer.groups]


async def find_group(client: ApiClient, ref: Ref) -> m.GroupInfo:
    """The one group of that name; RejectedError when there is none, or several."""
    found = [g for g in await live_groups(client) if g.name == ref.name]
    if ref.node is not None:
        found = [group for group in found if group.node == ref.node]
    if not found:
        raise RejectedError(Code.NOT_FOUND, f"there is no group '{ref}'", "trilun group list")
    if len(found) > 1:
        names = ", ".join(f"{group.node}/{group.name}" for group in found)
        raise RejectedError(Code.BAD_REQUEST, f"'{ref}' is ambiguous", f"name one of: {names}")
    return found[0]


async def refuse_group_called(client: ApiClient, name: str, data_set: str) -> None:
    """Refuse the name of a data set's remote pair where a group has it, too."""
    groups = [each for each in await live_groups(client) if each.name == name]
    if groups:
        choices = ", ".join([data_set, *(f"{each.node}/{each.name}" for each in groups)])
        raise RejectedError(
            Code.BAD_REQUEST,
            f"'{name}' is a group, and the remote pair of data set '{data_set}'",
            f"write one of {choices}",
        )


def complete_group(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of groups."""

    async def names(client: ApiClient) -> list[str]:
        return sorted({group.name for group in await live_groups(client)})

    return [n for n in quietly(root_session(ctx), names) if n.startswith(incomplete)]


_GROUP = click.argument("ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_group)


@click.group(cls=ApiGroup)
def group() -> None:
    """Consistency groups: split several pairs at one instant."""


@group.command("create")
@click.argument("name")
@click.argument("pairs", nargs=-1, required=True, type=RefType(), shell_complete=complete_pair)
@click.pass_obj
def create(session: Session, name: str, pairs: tuple[Ref, ...]) -> None:
    """Name a group of PAIRS, whose P-VOLs are on one controller and have one peer."""

    async def work(client: ApiClient) -> m.Reply:
        sides = [await find_pair(client, ref) for ref in pairs]
        asked = m.GroupCreate(name=name, pairs=[side.name for side in sides])
        return await client.request(sides[0].node, "group.create", asked, session.timeout_s)

    report_change(session, session.run(work), m.GroupInfo, f"group '{name}' created", group_table)


@group.command("list")
@click.pass_obj
def list_groups(session: Session) -> None:
    """List the groups of every controller that is online."""
    groups = session.run(live_groups)
    if session.json:
        print_json({"groups": groups})
    else:
        show(group_table(*groups))


@group.command("show")
@_GROUP
@click.pass_obj
def show_group(session: Session, ref: Ref) -> None:
    """Show one group and how its pairs stand."""

    async def work(client: ApiClient) -> m.GroupInfo:
        return await find_group(client, ref)

    info = session.run(work)
    if session.json:
        print_json({"group": info})
    else:
        show(group_table(info))


@group.command("split")
@_GROUP
@click.option("--label", default="", help="Remembered with the split of each pair.")
@click.option("--writable", is_flag=True, help="Let hosts write to the S-VOLs.")
@click.option("--deadline", type=click.FloatRange(0.1, 600), default=30.0, show_default=True,
              metavar="SECONDS", help="Take it back if a side has not confirmed.")  # fmt: skip
@click.pass_obj
def split(session: Session, ref: Ref, label: str, writable: bool, deadline: float) -> None:
    """Split all pairs of a group at one instant, or none."""
    params = m.GroupSplit(
        name=ref.name, label=label, writable=writable, at=time.time(), deadline_s=deadline
    )
    done = f"group '{ref.name}' is split at one instant"
    _change(session, ref, "group.split", params, done, patience_s=deadline)


@group.command("resync")
@_GROUP
@click.option("--forward", "direction", flag_value=m.Direction.FORWARD.value,
              help="Copy to the S-VOLs, whatever was written to those.")  # fmt: skip
@click.option("--reverse", "direction", flag_value=m.Direction.REVERSE.value,
              help="Copy back to the P-VOLs.")  # fmt: skip
@click.option("--force", is_flag=True, help="Reverse: overwrite P-VOLs that hosts use.")
@click.option("--deadline", type=click.FloatRange(0.1, 600), default=30.0, show_default=True,
              metavar="SECONDS", help="None begins if a side has not answered.")  # fmt: skip
@click.pass_obj
def resync(session: Session, ref: Ref, direction: str | None, force: bool, deadline: float) -> None:
    """Make both sides of every pair equal again by copying only what differs.

    All pairs begin, or none does.
    """
    params = m.GroupResync(
        name=ref.name,
        direction=None if direction is None else m.Direction(direction),
        force=force,
        deadline_s=deadline,
    )
    done = f"resync of group '{ref.name}' has begun"
    _change(session, ref, "group.resync", params, done, patience_s=deadline)


@group.command("wait")
@_GROUP
@click.argument("state", type=PAIR_STATES)
@click.option(
    "--timeout", "wait_s", type=click.FloatRange(min=0.001), help="Seconds; else for ever."
)
@click.pass_obj
def wait(session: Session, ref: Ref, state: str, wait_s: float | None) -> None:
    """Wait until every pair of a group is in STATE."""
    wanted = m.PairState(state)
    session.say_on_interrupt(f"group '{ref.name}' goes on without us", f"trilun group show {ref}")

    async def work(client: ApiClient) -> m.GroupInfo:
        others: list[str] = []
        try:
            async with asyncio.timeout(wait_s):
                with Teller(f"group {ref.name}", silent=session.json) as teller:
                    while True:
                        info = await find_group(client, ref)
                        others = [name for name in info.pairs if info.states[name] is not wanted]
                        if not others:
                            return info
                        there = len(info.pairs) - len(others)
                        left = format_size(info.dirty_bytes)
                        teller.tell(f"{there} of {len(info.pairs)} {wanted.value}", None, left)
                        await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise RejectedError(
                Code.TIMEOUT,
                f"not in {wanted.value} after {wait_s:g} s: {', '.join(others) or ref.name}",
                f"trilun group show {ref}",
            ) from None

    info = session.run(work)
    if session.json:
        print_json({"state": wanted.value, "group": info})
    else:
        print_line(f"group '{ref.name}' is {wanted.value}")


@group.command("delete")
@_GROUP
@click.pass_obj
def delete(session: Session, ref: Ref) -> None:
    """Forget a group; its pairs stay as they are."""
    params = m.Named(name=ref.name)
    _change(session, ref, "group.delete", params, f"group '{ref.name}' is forgotten")


def _change(
    session: Session,
    ref: Ref,
    verb: str,
    params: m.Params,
    done: str,
    *,
    patience_s: float = 0.0,
) -> None:
    async def work(client: ApiClient) -> m.Reply:
        found = await find_group(client, ref)
        timeout_s = session.timeout_s + patience_s
        return await client.request(found.node, verb, params, timeout_s)

    report_change(session, session.run(work), m.GroupInfo, done)


def group_table(*groups: m.GroupInfo) -> Table:
    """Groups, a line a pair."""
    rows = [
        (group.name if name == group.pairs[0] else "", group.node, name, group.states[name].value)
        for group in groups
        for name in group.pairs
    ]
    return table(("GROUP", "NODE", "PAIR", "STATE"), rows)
