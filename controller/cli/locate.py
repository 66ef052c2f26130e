"""Which node to ask: objects and data sets looked up across everything the broker knows.

Owns the rules of preference. Must not guess: what is ambiguous is refused with the names that
would be unambiguous. Raises RejectedError (not_found, unreachable, bad_request).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal, TypeVar

from controller.api import topics
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import (
    Empty,
    GroupInfo,
    Info,
    JobInfo,
    JobList,
    NodeKind,
    NodeStatus,
    PairInfo,
    PairList,
    Role,
    VolumeInfo,
    VolumeList,
)
from controller.cli.names import Ref
from controller.service.client import ApiClient

InfoT = TypeVar("InfoT", VolumeInfo, PairInfo, JobInfo)

_LIVE_TIMEOUT_S = 10.0


def online(nodes: dict[str, NodeStatus], kind: NodeKind) -> list[str]:
    """Names of the nodes of a kind that are there."""
    return [name for name, status in nodes.items() if status.online and status.kind is kind]


def offline(nodes: dict[str, NodeStatus], kind: NodeKind) -> list[str]:
    """Names of the nodes of a kind that are known and away."""
    return [name for name, status in nodes.items() if not status.online and status.kind is kind]


async def live_volumes(client: ApiClient, nodes: Iterable[str]) -> list[VolumeInfo]:
    """The volumes of these controllers, asked of themselves."""
    answers = await asyncio.gather(
        *(
            client.call_for(VolumeList, node, "volume.list", Empty(), _LIVE_TIMEOUT_S)
            for node in nodes
        )
    )
    return [volume for answer in answers for volume in answer.volumes]


async def live_pairs(client: ApiClient, nodes: Iterable[str]) -> list[PairInfo]:
    """The pairs of these controllers, each side that they have."""
    answers = await asyncio.gather(
        *(client.call_for(PairList, node, "pair.list", Empty(), _LIVE_TIMEOUT_S) for node in nodes)
    )
    return [pair for answer in answers for pair in answer.pairs]


async def live_jobs(client: ApiClient, nodes: Iterable[str]) -> list[JobInfo]:
    """The jobs of these agents."""
    answers = await asyncio.gather(
        *(client.call_for(JobList, node, "job.list", Empty(), _LIVE_TIMEOUT_S) for node in nodes)
    )
    return [job for answer in answers for job in answer.jobs]


async def find_volume(client: ApiClient, ref: Ref) -> VolumeInfo:
    """The one volume of that name."""
    found = await _retained(client, "volume", ref, VolumeInfo)
    if not found:
        nodes = online(await client.discover(), NodeKind.CONTROLLER)
        found = _named(await live_volumes(client, nodes), ref)
    return _only(found, "volume", ref)


async def find_pair(client: ApiClient, ref: Ref) -> PairInfo:
    """The side of a pair to ask: the P-VOL's where that node is there, else the S-VOL's."""
    sides = await pair_sides(client, ref)
    nodes = await client.discover()
    for side in sides:
        status = nodes.get(side.node)
        if status is not None and status.online:
            return side
    raise RejectedError(
        Code.UNREACHABLE,
        f"pair '{ref.name}' is on {' and '.join(s.node for s in sides)}, and no side is online",
        f"start the service on '{sides[0].node}'",
    )


async def find_s_side(client: ApiClient, ref: Ref) -> PairInfo:
    """The S-VOL's side of a remote pair, whatever has become of the other."""
    sides = [side for side in await pair_sides(client, ref) if side.role is Role.S_VOL]
    if not sides:
        raise _not_found("S-VOL's side of pair", ref)
    return sides[0]


async def pair_sides(client: ApiClient, ref: Ref) -> list[PairInfo]:
    """Every known side of one pair, the P-VOL's first."""
    found = await _retained(client, "pair", ref, PairInfo)
    if not found:
        nodes = online(await client.discover(), NodeKind.CONTROLLER)
        found = _named(await live_pairs(client, nodes), ref)
    if not found:
        raise _not_found("pair", ref)
    found.sort(key=lambda pair: (pair.role is not Role.P_VOL, pair.node))
    first = found[0]
    if ref.node is None and first.peer is not None and len(found) == 1:
        found += await _side_of_peer(client, ref, first.peer)
        found.sort(key=lambda pair: (pair.role is not Role.P_VOL, pair.node))
    for other in found[1:]:
        if {first.node, first.peer} != {other.node, other.peer}:
            raise _ambiguous("pair", ref, [pair.node for pair in found])
    return found


async def _side_of_peer(client: ApiClient, ref: Ref, peer: str) -> list[PairInfo]:
    """The other side of a pair that has just been made, and may not be published yet."""
    if peer not in online(await client.discover(), NodeKind.CONTROLLER):
        return []
    return _named(await live_pairs(client, [peer]), ref)


async def find_job(client: ApiClient, ref: Ref) -> JobInfo:
    """The one job of that id."""
    found = await _retained(client, "job", ref, JobInfo)
    if not found:
        nodes = online(await client.discover(), NodeKind.AGENT)
        found = _named(await live_jobs(client, nodes), ref)
    return _only(found, "job", ref)


async def find_agent(
    client: ApiClient,
    part: Literal["host1", "host2"],
    data_set: str | None,
    paths: Sequence[str] = (),
) -> tuple[str, str]:
    """The agent that has this part of a data set, and the data set's name.

    The only data set there is needs no name, nor does one that an absolute path lies in. The name
    of its remote pair does as well.
    """
    nodes = await client.discover()
    return choose_agent(nodes, part, data_set or data_set_of(nodes, paths))


def data_set_of(nodes: dict[str, NodeStatus], paths: Sequence[str]) -> str | None:
    """The data set whose mountpoint the absolute paths lie beneath; None when none of them does.

    Where one data set is mounted beneath another, the inner one has the path.
    """
    mountpoints = {
        (PurePosixPath(ref.mountpoint), ref.name)
        for status in nodes.values()
        for ref in status.data_sets
        if status.kind is NodeKind.AGENT and ref.mountpoint
    }
    found: set[str] = set()
    for path in paths:
        beneath = [
            (len(mountpoint.parts), name)
            for mountpoint, name in mountpoints
            if path.startswith("/") and PurePosixPath(path).is_relative_to(mountpoint)
        ]
        deepest = max((depth for depth, _ in beneath), default=0)
        names = {name for depth, name in beneath if depth == deepest}
        # Two hosts may mount two data sets at the same place: then the path doesn't tell.
        if len(names) == 1:
            found |= names
    if len(found) > 1:
        raise RejectedError(
            Code.BAD_REQUEST,
            f"the paths lie in several data sets: {', '.join(sorted(found))}",
            "restore from one data set at a time",
        )
    return found.pop() if found else None


def data_set_called(nodes: dict[str, NodeStatus], name: str, primary: str = "") -> str:
    """The data set of that name, or whose remote pair has it; the name itself where none has.

    With `primary` only pairs of that controller count.
    """
    pairs = {
        ref.name: ref.remote_pair
        for status in nodes.values()
        for ref in status.data_sets
        if status.kind is NodeKind.AGENT and primary in ("", ref.primary)
    }
    found = {data_set for data_set, pair in pairs.items() if pair == name}
    if name in pairs and not primary:
        found.add(name)
    if len(found) < 2:
        return found.pop() if found else name
    # A data set whose name is another's pair goes by its own pair.
    choices = [pairs[each] if each == name else each for each in sorted(found)]
    raise RejectedError(
        Code.BAD_REQUEST,
        f"'{name}' may be any of the data sets {', '.join(sorted(found))}: it is the name of one, "
        "or of its remote pair",
        f"write one of {', '.join(choices)}",
    )


def choose_agent(
    nodes: dict[str, NodeStatus], part: Literal["host1", "host2"], data_set: str | None
) -> tuple[str, str]:
    """`find_agent` over what is known."""
    agents = [
        (status.node, ref.name, status.online)
        for status in nodes.values()
        for ref in status.data_sets
        if status.kind is NodeKind.AGENT and ref.part == part
    ]
    names = sorted({name for _, name, _ in agents})
    if data_set is None:
        if len(names) > 1:
            raise RejectedError(
                Code.BAD_REQUEST,
                f"there are several data sets: {', '.join(names)}",
                "name one of them",
            )
        if not names:
            raise RejectedError(
                Code.NOT_FOUND, f"no agent serves a data set as {part}", "start trilun-agent"
            )
        data_set = names[0]
    data_set = data_set_called(nodes, data_set)
    matching = [(node, there) for node, name, there in agents if name == data_set]
    if not matching:
        known = ", ".join(names) or "none"
        raise RejectedError(
            Code.NOT_FOUND,
            f"no agent serves data set '{data_set}' as {part}",
            f"known data sets: {known}",
        )
    there = [node for node, is_online in matching if is_online]
    if len(there) > 1:
        raise RejectedError(
            Code.WRONG_STATE,
            f"several agents serve data set '{data_set}' as {part}: {', '.join(sorted(there))}",
            "stop all but one of them",
        )
    if not there:
        away = ", ".join(sorted(node for node, _ in matching))
        raise RejectedError(
            Code.UNREACHABLE,
            f"the agent of data set '{data_set}' ({away}) is offline",
            "start trilun-agent there",
        )
    return there[0], data_set


_ONE_HOST = {
    "host1": "one host 1 freezes all of a group: make a group for each host",
    "host2": "one host 2 restores all of a group: add the data sets to one's configuration, or "
    "restore each on its own",
}


def choose_group_agent(
    nodes: dict[str, NodeStatus], group: GroupInfo, part: Literal["host1", "host2"] = "host1"
) -> str:
    """The agent of the host whose data sets the pairs of a group belong to."""
    owners: dict[str, str] = {}
    for status in nodes.values():
        for ref in status.data_sets:
            ours = ref.part == part and ref.primary == group.node
            if status.kind is NodeKind.AGENT and ours and ref.remote_pair in group.pairs:
                owners[ref.remote_pair] = status.node
    agents = sorted(set(owners.values()))
    if not agents:
        raise RejectedError(
            Code.NOT_FOUND,
            f"no agent has as {part} a data set of the pairs of group '{group.name}': "
            f"{', '.join(group.pairs)}",
            f"start trilun-agent on their {part}, or look at its configuration",
        )
    if len(agents) > 1:
        named = "; ".join(
            f"{node}: {', '.join(pair for pair in group.pairs if owners.get(pair) == node)}"
            for node in agents
        )
        raise RejectedError(
            Code.WRONG_STATE,
            f"the pairs of group '{group.name}' belong to data sets of several hosts: {named}",
            _ONE_HOST[part],
        )
    if not nodes[agents[0]].online:
        raise RejectedError(
            Code.UNREACHABLE, f"agent '{agents[0]}' is offline", "start trilun-agent there"
        )
    return agents[0]


async def _retained(
    client: ApiClient, kind: topics.StateKind, ref: Ref, model: type[InfoT]
) -> list[InfoT]:
    node = ref.node or "+"
    states = await client.states(f"{topics.ROOT}/{node}/state/{kind}/{ref.name}")
    return [info for info in states.values() if isinstance(info, model)]


def _named(infos: Sequence[InfoT], ref: Ref) -> list[InfoT]:
    return [
        info
        for info in infos
        if _name(info) == ref.name and (ref.node is None or ref.node == info.node)
    ]


def _name(info: VolumeInfo | PairInfo | JobInfo) -> str:
    return info.id if isinstance(info, JobInfo) else info.name


def _only(found: Sequence[InfoT], what: str, ref: Ref) -> InfoT:
    if not found:
        raise _not_found(what, ref)
    if len(found) > 1:
        raise _ambiguous(what, ref, [info.node for info in found])
    return found[0]


def _not_found(what: str, ref: Ref) -> RejectedError:
    where = f"on {ref.node}" if ref.node else "on any node"
    return RejectedError(
        Code.NOT_FOUND, f"there is no {what} '{ref.name}' {where}", f"trilun {what} list"
    )


def _ambiguous(what: str, ref: Ref, nodes: Sequence[str]) -> RejectedError:
    names = ", ".join(f"{node}/{ref.name}" for node in sorted(set(nodes)))
    return RejectedError(
        Code.BAD_REQUEST, f"there are several {what}s '{ref.name}'", f"write one of {names}"
    )


def as_info(info: Info | None, model: type[InfoT]) -> InfoT | None:
    """`info` when it is of the wanted kind."""
    return info if isinstance(info, model) else None
