"""`trilun pair …`.

Owns the arguments and the display of pairs. Must not know the state table: the controller
answers accepted, no-op or rejected.
"""

from __future__ import annotations

import time

import click
from rich.table import Table

from controller.api import messages as m
from controller.api.codes import Exit
from controller.cli.locate import find_pair, live_pairs, offline, online, pair_sides
from controller.cli.names import PAIR_STATES, RateType, Ref, RefType, complete_pair, complete_volume
from controller.cli.output import details, print_json, print_line, print_note, show, table
from controller.cli.results import report_change
from controller.cli.session import ApiGroup, Session
from controller.cli.waiting import Teller, progress_text, wait_for_pair, wait_for_verify
from controller.service.client import ApiClient
from controller.service.sizes import format_size

PAIR_ARGUMENT = click.argument(
    "ref", metavar="[NODE/]NAME", type=RefType(), shell_complete=complete_pair
)
_RATE = click.option("--rate-limit", type=RateType(), help="At most this a second, as 50MiB.")


@click.group(cls=ApiGroup)
def pair() -> None:
    """Pairs: bind two volumes, split them, make them equal again."""


@pair.command("create")
@click.argument("name")
@click.argument(
    "p_vol",
    metavar="P_NODE/P_VOLUME",
    type=RefType(node_needed=True),
    shell_complete=complete_volume,
)
@click.argument(
    "s_vol",
    metavar="S_NODE/S_VOLUME",
    type=RefType(node_needed=True),
    shell_complete=complete_volume,
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in m.Mode]),
    default=m.Mode.SYNC.value,
    show_default=True,
    help="When a host's write is acknowledged.",
)
@click.option(
    "--fence",
    type=click.Choice([fence.value for fence in m.Fence]),
    default=m.Fence.NEVER.value,
    show_default=True,
    help="What a write meets when the mirror can't follow.",
)
@_RATE
@click.pass_obj
def create(
    session: Session,
    name: str,
    p_vol: Ref,
    s_vol: Ref,
    mode: str,
    fence: str,
    rate_limit: int | None,
) -> None:
    """Bind two volumes and copy the first to the second.

    On one node it is a local pair, across two nodes a remote one.
    """
    assert p_vol.node is not None
    local = p_vol.node == s_vol.node
    params = m.PairCreate(
        name=name,
        kind=m.PairKind.LOCAL if local else m.PairKind.REMOTE,
        p_volume=p_vol.name,
        s_volume=s_vol.name,
        peer=None if local else s_vol.node,
        mode=m.Mode(mode),
        fence=m.Fence(fence),
        rate_limit_bytes_per_s=rate_limit,
    )
    node = p_vol.node

    async def work(client: ApiClient) -> m.Reply:
        return await client.request(node, "pair.create", params, session.timeout_s)

    report_change(session, session.run(work), m.PairInfo, f"pair '{name}' created", _pair_details)


@pair.command("list")
@click.pass_obj
def list_pairs(session: Session) -> None:
    """List the pairs of every controller that is online, both sides of each."""

    async def work(client: ApiClient) -> tuple[list[m.PairInfo], list[str]]:
        nodes = await client.discover()
        pairs = await live_pairs(client, online(nodes, m.NodeKind.CONTROLLER))
        return pairs, offline(nodes, m.NodeKind.CONTROLLER)

    pairs, away = session.run(work)
    if session.json:
        print_json({"pairs": pairs, "offline_nodes": away})
        return
    show(pair_table(pairs))
    for name in away:
        print_note(f"node '{name}' is offline, its pairs are not listed")


@pair.command("show")
@PAIR_ARGUMENT
@click.pass_obj
def show_pair(session: Session, ref: Ref) -> None:
    """Show one pair, each side that is known."""

    async def work(client: ApiClient) -> tuple[m.PairInfo, list[m.PairInfo]]:
        side = await find_pair(client, ref)
        shown = await client.call_for(
            m.PairInfo, side.node, "pair.show", m.Named(name=ref.name), session.timeout_s
        )
        others = [p for p in await pair_sides(client, ref) if p.node != side.node]
        return shown, others

    shown, others = session.run(work)
    if session.json:
        print_json({"pair": shown, "other_sides": others})
        return
    show(_pair_details(shown))
    for other in others:
        print_line(f"{other.node} shows its side ({other.role.value}) as {other.state.value}")


@pair.command("split")
@PAIR_ARGUMENT
@click.option("--label", default="", help="Remembered with the split.")
@click.option("--writable", is_flag=True, help="Let hosts write to the S-VOL.")
@click.option(
    "--quick",
    is_flag=True,
    help="A local pair: make the S-VOL what the P-VOL is now, and copy what differs behind it.",
)
@click.pass_obj
def split(session: Session, ref: Ref, label: str, writable: bool, quick: bool) -> None:
    """Stop mirroring at one instant; both sides keep what they have."""
    params = m.PairSplit(name=ref.name, label=label, writable=writable, quick=quick, at=time.time())
    _change(session, ref, "pair.split", params, f"pair '{ref.name}' is split")


@pair.command("resync")
@PAIR_ARGUMENT
@click.option(
    "--forward",
    "direction",
    flag_value=m.Direction.FORWARD.value,
    help="Copy from the P-VOL to the S-VOL, whatever was written to that.",
)
@click.option(
    "--reverse",
    "direction",
    flag_value=m.Direction.REVERSE.value,
    help="Copy from the S-VOL to the P-VOL.",
)
@click.option("--full", is_flag=True, help="Allow a full copy where the bitmaps can't tell.")
@click.option("--force", is_flag=True, help="Reverse: overwrite a P-VOL that a host uses.")
@click.option("--expect-generation", help="Refuse if the data set has another generation.")
@_RATE
@click.pass_obj
def resync(
    session: Session,
    ref: Ref,
    direction: str | None,
    full: bool,
    force: bool,
    expect_generation: str | None,
    rate_limit: int | None,
) -> None:
    """Make both sides equal again by copying only what differs.

    Without a direction it copies to the S-VOL, unless that has writes of its own.
    """
    params = m.PairResync(
        name=ref.name,
        direction=None if direction is None else m.Direction(direction),
        full=full,
        force=force,
        expect_generation=expect_generation,
        rate_limit_bytes_per_s=rate_limit,
    )
    _change(session, ref, "pair.resync", params, f"resync of pair '{ref.name}' has begun")


@pair.command("resolve")
@PAIR_ARGUMENT
@click.option(
    "--discard",
    required=True,
    metavar="NODE",
    help="Give up what this node's side wrote; for a local pair name the volume.",
)
@click.option("--force", is_flag=True, help="Overwrite a P-VOL that a host uses.")
@click.pass_obj
def resolve(session: Session, ref: Ref, discard: str, force: bool) -> None:
    """End a split-brain: both sides were written, and one of them is given up."""
    params = m.PairResolve(name=ref.name, discard=discard, force=force)
    _change(session, ref, "pair.resolve", params, f"pair '{ref.name}' gives up '{discard}'")


@pair.command("verify")
@PAIR_ARGUMENT
@click.option("--repair", is_flag=True, help="Copy what differs to the S-VOL afterwards.")
@click.option("--no-wait", is_flag=True, help="Begin it and leave; `pair show` has the findings.")
@_RATE
@click.pass_obj
def verify(session: Session, ref: Ref, repair: bool, no_wait: bool, rate_limit: int | None) -> None:
    """Compare both sides while hosts go on; exit code 1 when they differ."""
    params = m.PairVerify(name=ref.name, repair=repair, rate_limit_bytes_per_s=rate_limit)
    if no_wait:
        _change(session, ref, "pair.verify", params, f"pair '{ref.name}' is being compared")
        return
    session.say_on_interrupt(f"verify of '{ref.name}' goes on", f"trilun pair show {ref}")

    async def work(client: ApiClient) -> m.PairInfo:
        side = await find_pair(client, ref)
        begun = await client.call_for(
            m.PairInfo, side.node, "pair.verify", params, session.timeout_s
        )
        with Teller(f"verify {ref.name}", silent=session.json) as teller:
            return await wait_for_verify(client, begun.node, ref, teller)

    info = session.run(work)
    found = info.verify
    assert found is not None
    if session.json:
        print_json({"pair": ref.name, "verify": found})
    else:
        for line in verify_lines(ref.name, found):
            print_line(line)
    if found.state is m.VerifyState.STOPPED or (found.differing_bytes and not found.repaired):
        click.get_current_context().exit(Exit.FAILED)


@pair.command("wait")
@PAIR_ARGUMENT
@click.argument("state", type=PAIR_STATES)
@click.option(
    "--timeout", "wait_s", type=click.FloatRange(min=0.001), help="Seconds; else for ever."
)
@click.pass_obj
def wait(session: Session, ref: Ref, state: str, wait_s: float | None) -> None:
    """Wait until a pair is in STATE, with progress."""
    wanted = m.PairState(state)
    session.say_on_interrupt(f"pair '{ref.name}' goes on without us", f"trilun pair show {ref}")

    async def work(client: ApiClient) -> m.PairInfo | None:
        with Teller(f"pair {ref.name}", silent=session.json) as teller:
            return await wait_for_pair(client, ref, wanted, wait_s, teller)

    info = session.run(work)
    if session.json:
        print_json({"state": wanted.value, "pair": info})
    else:
        print_line(f"pair '{ref.name}' is {wanted.value}")


@pair.command("delete")
@PAIR_ARGUMENT
@click.option("--force", is_flag=True, help="Delete this side alone when the peer is away.")
@click.pass_obj
def delete(session: Session, ref: Ref, force: bool) -> None:
    """Dissolve a pair; both volumes stay as they are."""
    params = m.PairDelete(name=ref.name, force=force)
    _change(session, ref, "pair.delete", params, f"pair '{ref.name}' is deleted")


def _change(session: Session, ref: Ref, verb: str, params: m.Params, done: str) -> None:
    async def work(client: ApiClient) -> m.Reply:
        side = await find_pair(client, ref)
        return await client.request(side.node, verb, params, session.timeout_s)

    report_change(session, session.run(work), m.PairInfo, done)


def pair_table(pairs: list[m.PairInfo]) -> Table:
    """Sides of pairs, a line each."""
    return table(
        ("PAIR", "NODE", "KIND", "ROLE", "STATE", "P-VOL", "S-VOL", "DIRTY", "PROGRESS"),
        [
            (
                p.name,
                p.node,
                p.kind.value,
                p.role.value,
                p.state.value,
                p.p_volume,
                p.s_volume,
                format_size(p.dirty_bytes),
                progress_text(p.progress) or "-",
            )
            for p in sorted(pairs, key=lambda p: (p.name, p.role.value, p.node))
        ],
        right="DIRTY",
    )


def _pair_details(info: m.PairInfo) -> Table:
    peer = info.peer and f"{info.peer} ({'connected' if info.peer_connected else 'away'})"
    return details(
        [
            ("pair", info.name),
            ("node", info.node),
            ("kind", info.kind.value),
            ("role", info.role.value),
            ("state", info.state.value),
            ("reason", info.reason),
            ("next", info.next_step),
            ("P-VOL", info.p_volume),
            ("S-VOL", info.s_volume),
            ("peer", peer or ""),
            ("mode", info.mode.value),
            ("fence", info.fence.value),
            ("dirty", format_size(info.dirty_bytes)),
            ("generation", info.generation),
            ("split label", info.split_label),
            ("progress", progress_text(info.progress)),
            ("last resync", _resync_text(info)),
            ("last verify", _verify_text(info.verify)),
        ]
    )


def _resync_text(info: m.PairInfo) -> str:
    if not info.resync_union_bytes and not info.resync_payload_bytes:
        return ""
    text = f"{format_size(info.resync_payload_bytes)} of data"
    if info.resync_wire_bytes:
        text += f", {format_size(info.resync_wire_bytes)} on the wire"
    text += f", union {format_size(info.resync_union_bytes)}"
    if info.resync_compared_bytes:
        text += f", compared {format_size(info.resync_compared_bytes)}"
    return f"{text}, discarded {format_size(info.resync_discarded_bytes)}"


def _verify_text(found: m.VerifyInfo | None) -> str:
    if found is None:
        return ""
    if found.state is m.VerifyState.RUNNING:
        return f"running, {progress_text(found.progress)}"
    return "; ".join(verify_lines("", found)[:1])


def verify_lines(name: str, found: m.VerifyInfo) -> list[str]:
    """The findings: a line for all, then one for each range that differs."""
    what = f"pair '{name}': " if name else ""
    if found.state is m.VerifyState.STOPPED:
        what += f"stopped ({found.reason}); "
    compared = f"{format_size(found.compared_bytes)} compared in {found.elapsed_s:.1f} s"
    if not found.differing_bytes:
        text = f"{what}no difference in {compared}"
    else:
        repaired = ", repaired" if found.repaired else ""
        text = f"{what}{format_size(found.differing_bytes)} differ of {compared}{repaired}"
    if found.busy_bytes:
        text += f"; {format_size(found.busy_bytes)} were written each time they were looked at"
    lines = [text]
    lines += [f"  offset {each.offset_bytes}: {each.length_bytes} bytes" for each in found.ranges]
    if found.range_count > len(found.ranges):
        lines.append(f"  and {found.range_count - len(found.ranges)} more ranges")
    return lines
