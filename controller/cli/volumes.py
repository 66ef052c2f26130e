"""`trilun volume …`.

Owns the arguments and the display of volumes. Must not decide what a controller decides.
"""

from __future__ import annotations

import click
from rich.table import Table

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.locate import find_volume, live_volumes, offline, online
from controller.cli.names import (
    Ref,
    RefType,
    SizeType,
    complete_initiator,
    complete_node,
    complete_node_slash,
    complete_volume,
)
from controller.cli.output import details, print_json, print_note, show, table
from controller.cli.results import report_change
from controller.cli.session import ApiGroup, Session, usage_error
from controller.service.client import ApiClient
from controller.service.sizes import format_size


@click.group(cls=ApiGroup)
def volume() -> None:
    """Volumes: make, grow, list, show and delete them; say which hosts may log in."""


@volume.command("create")
@click.argument("ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_node_slash)
@click.argument("size_bytes", metavar="SIZE", type=SizeType())
@click.option("--node", help="The controller, if not given as NODE/NAME.",
              shell_complete=complete_node)  # fmt: skip
@click.option("--allow", "initiators", multiple=True, metavar="INITIATOR",
              help="The name of a host's initiator that may log in, and no other; repeatable.",
              shell_complete=complete_initiator)  # fmt: skip
@click.pass_obj
def create(
    session: Session, ref: Ref, size_bytes: int, node: str | None, initiators: tuple[str, ...]
) -> None:
    """Make a volume of SIZE (such as 1GiB, 512MiB or 4096), sparse and exported.

    Every initiator may log in, unless some are named with --allow.
    """
    if node is not None and ref.node not in {None, node}:
        raise usage_error(f"--node {node} and {ref} name different nodes")
    _check_initiators(initiators)
    params = m.VolumeCreate(name=ref.name, size_bytes=size_bytes, initiators=list(initiators))

    async def work(client: ApiClient) -> m.Reply:
        where = ref.node or node
        if where is None:
            where = _only_controller(await client.discover())
        return await client.request(where, "volume.create", params, session.timeout_s)

    reply = session.run(work)
    report_change(session, reply, m.VolumeInfo, f"volume '{ref.name}' created", _volume_details)


@volume.command("grow")
@click.argument("ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_volume)
@click.argument("size_bytes", metavar="SIZE", type=SizeType())
@click.pass_obj
def grow(session: Session, ref: Ref, size_bytes: int) -> None:
    """Give a volume SIZE (such as 2GiB) while hosts use it. Refused while a pair or a view does."""

    async def work(client: ApiClient) -> m.Reply:
        found = await find_volume(client, ref)
        params = m.VolumeGrow(name=ref.name, size_bytes=size_bytes)
        return await client.request(found.node, "volume.grow", params, session.timeout_s)

    reply = session.run(work)
    report_change(session, reply, m.VolumeInfo, f"volume '{ref.name}' has grown", _volume_details)


@volume.command("allow")
@click.argument("ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_volume)
@click.argument("initiators", metavar="[INITIATOR]...", nargs=-1,
                shell_complete=complete_initiator)  # fmt: skip
@click.option("--all", "everybody", is_flag=True, help="Let every initiator log in.")
@click.option("--force", is_flag=True, help="End the sessions that are in the way.")
@click.pass_obj
def allow(
    session: Session, ref: Ref, initiators: tuple[str, ...], everybody: bool, force: bool
) -> None:
    """Say which hosts may log in to a volume: these INITIATORs and no others, or --all.

    Refused where the session of a host that is logged in would end, unless with --force.
    """
    if everybody == bool(initiators):
        raise usage_error("name the initiators that may log in, or say --all")
    _check_initiators(initiators)
    params = m.VolumeAllow(name=ref.name, initiators=list(initiators), force=force)

    async def work(client: ApiClient) -> m.Reply:
        found = await find_volume(client, ref)
        return await client.request(found.node, "volume.allow", params, session.timeout_s)

    reply = session.run(work)
    done = f"volume '{ref.name}' has its list of initiators"
    report_change(session, reply, m.VolumeInfo, done, _volume_details)


@volume.command("list")
@click.option("--node", help="Only this controller.", shell_complete=complete_node)
@click.pass_obj
def list_volumes(session: Session, node: str | None) -> None:
    """List the volumes of every controller that is online."""

    async def work(client: ApiClient) -> tuple[list[m.VolumeInfo], list[str]]:
        nodes = await client.discover()
        if node is not None:
            return await live_volumes(client, [node]), []
        volumes = await live_volumes(client, online(nodes, m.NodeKind.CONTROLLER))
        return volumes, offline(nodes, m.NodeKind.CONTROLLER)

    volumes, away = session.run(work)
    if session.json:
        print_json({"volumes": volumes, "offline_nodes": away})
        return
    show(volume_table(volumes))
    for name in away:
        print_note(f"node '{name}' is offline, its volumes are not listed")


@volume.command("show")
@click.argument("ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_volume)
@click.pass_obj
def show_volume(session: Session, ref: Ref) -> None:
    """Show one volume."""

    async def work(client: ApiClient) -> m.VolumeInfo:
        found = await find_volume(client, ref)
        return await client.call_for(
            m.VolumeInfo, found.node, "volume.show", m.Named(name=ref.name), session.timeout_s
        )

    info = session.run(work)
    if session.json:
        print_json(info)
    else:
        show(_volume_details(info))


@volume.command("delete")
@click.argument("ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_volume)
@click.pass_obj
def delete(session: Session, ref: Ref) -> None:
    """Delete a volume and its data. Refused while a pair, a view or a host uses it."""

    async def work(client: ApiClient) -> m.Reply:
        found = await find_volume(client, ref)
        params = m.VolumeDelete(name=ref.name)
        return await client.request(found.node, "volume.delete", params, session.timeout_s)

    report_change(session, session.run(work), m.VolumeInfo, f"volume '{ref.name}' deleted")


def volume_table(volumes: list[m.VolumeInfo]) -> Table:
    """Volumes, a line each."""
    return table(
        ("NODE", "VOLUME", "SIZE", "ALLOCATED", "ACCESS", "HEALTH", "PAIRS", "HOSTS"),
        [
            (
                v.node,
                v.name if v.view_of is None else f"{v.name} (view of {v.view_of})",
                format_size(v.size_bytes),
                format_size(v.allocated_bytes),
                v.access.value,
                _health(v),
                ", ".join(v.pairs) or "-",
                str(len(v.sessions)),
            )
            for v in sorted(volumes, key=lambda v: (v.node, v.name))
        ],
        right="SIZE,ALLOCATED,HOSTS",
    )


def _health(info: m.VolumeInfo) -> str:
    if not info.healthy:
        return "failed"
    if not info.consistent:
        return "inconsistent"
    return "not exported" if info.trouble else "ok"


def _session(info: m.SessionInfo) -> str:
    # The kernel's target says where an initiator is only of those that are in a list.
    where = f" from {info.address}" if info.address else ""
    lost = " (can't write until it logs in anew: power was lost)" if info.lost_writes else ""
    return f"{info.initiator}{where}{lost}"


def _volume_details(info: m.VolumeInfo) -> Table:
    return details(
        [
            ("volume", info.name),
            ("node", info.node),
            ("size", f"{format_size(info.size_bytes)} ({info.size_bytes} bytes)"),
            ("allocated", format_size(info.allocated_bytes)),
            ("access", info.access.value),
            ("health", _health(info)),
            ("generation", info.generation),
            ("view of", info.view_of or ""),
            ("pairs", ", ".join(info.pairs)),
            ("target", info.target or ""),
            ("portals", ", ".join(info.portals)),
            ("not found", info.trouble),
            ("lun", str(info.lun)),
            ("naa", info.naa),
            ("allowed", ", ".join(info.initiators) or "every initiator"),
            ("hosts", ", ".join(map(_session, info.sessions))),
        ]
    )


def _check_initiators(initiators: tuple[str, ...]) -> None:
    """Their number and length; what is a name, the controller decides."""
    if len(initiators) > m.MAX_INITIATORS:
        raise usage_error(f"a volume's list has at most {m.MAX_INITIATORS} initiators")
    for each in initiators:
        if not 0 < len(each) <= m.MAX_INITIATOR_CHARS:
            raise usage_error(f"an initiator's name has 1 to {m.MAX_INITIATOR_CHARS} characters")


def _only_controller(nodes: dict[str, m.NodeStatus]) -> str:
    names = [n for n, status in nodes.items() if status.kind is m.NodeKind.CONTROLLER]
    if len(names) == 1:
        return names[0]
    if not names:
        raise RejectedError(Code.UNREACHABLE, "there is no controller", "start trilund")
    raise usage_error(f"write NODE/NAME: the controllers are {', '.join(names)}")
