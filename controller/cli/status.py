"""`trilun status`: everything on one screen.

Owns the page. It is made of retained states, so that it also shows what offline nodes said
last; such lines are marked. Must not ask nodes, and changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import dataclass, field

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from controller.api import messages as m
from controller.api import topics
from controller.api.errors import RejectedError
from controller.cli.jobs import job_table
from controller.cli.output import clean, console, print_json, show, table
from controller.cli.pairs import pair_table
from controller.cli.session import ApiCommand, Session, usage_error
from controller.cli.volumes import volume_table
from controller.service.client import ApiClient

REFRESH_S = 1.0


@dataclass(slots=True)
class Overview:
    """What the broker retains, sorted by kind."""

    nodes: list[m.NodeStatus] = field(default_factory=list)
    volumes: list[m.VolumeInfo] = field(default_factory=list)
    pairs: list[m.PairInfo] = field(default_factory=list)
    jobs: list[m.JobInfo] = field(default_factory=list)


def overview(nodes: dict[str, m.NodeStatus], states: dict[str, m.Info]) -> Overview:
    """Sort states by kind."""
    found = Overview(nodes=list(nodes.values()))
    for info in states.values():
        if isinstance(info, m.VolumeInfo):
            found.volumes.append(info)
        elif isinstance(info, m.PairInfo):
            found.pairs.append(info)
        elif isinstance(info, m.JobInfo):
            found.jobs.append(info)
    return found


def page(found: Overview) -> Group:
    """The one screen."""
    parts: list[RenderableType] = [_node_table(found.nodes)]
    if found.volumes:
        parts += ["", volume_table(found.volumes)]
    if found.pairs:
        parts += ["", pair_table(found.pairs)]
    running = [job for job in found.jobs if job.state is m.JobState.RUNNING]
    if running:
        parts += ["", job_table(running)]
    remarks = attention(found)
    if remarks:
        parts += ["", *(Text(clean(line)) for line in remarks)]
    return Group(*parts)


def attention(found: Overview) -> list[str]:
    """What an operator should look at: reasons with their next steps."""
    lines: list[str] = []
    for node in found.nodes:
        if not node.online:
            lines.append(f"! node {node.node} is offline; its lines show what it said last")
        lines += [
            f"! {node.node}: peer {p} is away" for p, there in node.peers.items() if not there
        ]
    for volume in found.volumes:
        if not volume.healthy:
            lines.append(f"! volume {volume.node}/{volume.name} has failed")
        elif not volume.consistent:
            lines.append(f"! volume {volume.node}/{volume.name} is inconsistent")
    for pair in found.pairs:
        if pair.reason:
            lines.append(f"! pair {pair.node}/{pair.name}: {pair.reason}")
        if pair.next_step:
            lines.append(f"  next: {pair.next_step}")
    return lines


def _node_table(nodes: list[m.NodeStatus]) -> RenderableType:
    if not nodes:
        return Text("no node has been seen by this broker")
    return table(
        ("NODE", "KIND", "STATE", "VERSION", "PEERS / DATA SETS", "DETAIL"),
        [
            (
                n.node,
                n.kind.value,
                "online" if n.online else "offline",
                n.version,
                ", ".join(
                    [f"{p} {'up' if up else 'away'}" for p, up in n.peers.items()]
                    + [f"{d.name} ({d.part})" for d in n.data_sets]
                )
                or "-",
                n.detail or "-",
            )
            for n in nodes
        ],
    )


@click.command("status", cls=ApiCommand)
@click.option("--watch", is_flag=True, help="Stay, and show changes.")
@click.pass_obj
def status(session: Session, watch: bool) -> None:
    """Show nodes, volumes, pairs and running jobs on one screen."""
    if watch and session.json:
        raise usage_error("--watch and --json don't go together")
    if watch:
        session.say_on_interrupt("", "")
        session.run(_watch)
        return

    async def work(client: ApiClient) -> Overview:
        return overview(await client.discover(), await client.states())

    found = session.run(work)
    if session.json:
        print_json(
            {
                "nodes": found.nodes,
                "volumes": found.volumes,
                "pairs": found.pairs,
                "jobs": found.jobs,
            }
        )
    else:
        show(page(found))


async def _watch(client: ApiClient) -> None:
    states: dict[str, m.Info] = {}

    async def follow() -> None:
        async with aclosing(client.watch(topics.ALL_STATE)) as changes:
            async for topic, info in changes:
                if info is None:
                    states.pop(topic, None)
                else:
                    states[topic] = info

    nodes = await client.discover()
    states |= await client.states()
    following = asyncio.create_task(follow())
    try:
        if sys.stdout.isatty():
            await _live(client, nodes, states)
        else:
            await _pages(client, states)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _live(
    client: ApiClient, nodes: dict[str, m.NodeStatus], states: dict[str, m.Info]
) -> None:
    with Live(console=console(), auto_refresh=False, screen=True) as live:
        while True:
            try:
                nodes = await client.discover()
                shown: RenderableType = page(overview(nodes, states))
            except RejectedError as exc:
                shown = Group(Text(clean(exc.message)), "", page(overview(nodes, states)))
            live.update(shown, refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _pages(client: ApiClient, states: dict[str, m.Info]) -> None:
    """Off a terminal: the page again whenever it has changed."""
    last: Overview | None = None
    while True:
        now = overview(await client.discover(), states)
        if now != last:
            last = now
            show(page(now), "")
        await asyncio.sleep(REFRESH_S)
