"""Arguments that name things: sizes, and objects as `NAME` or `NODE/NAME`.

Owns their grammar on the command line, and the names offered by shell completion. Must not
raise out of completion: without a broker it offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from controller.api import topics
from controller.api.messages import (
    BLOCK_BYTES,
    MAX_VOLUME_BYTES,
    NodeKind,
    PairState,
    VolumeInfo,
)
from controller.cli.session import Session, quietly
from controller.service.client import ApiClient
from controller.service.config import Endpoint
from controller.service.sizes import exact_size, parse_size

Completer = Callable[[click.Context, click.Parameter, str], list[Any]]
"""What click calls for completion (its return type also allows its own items)."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An object's name, and its node where that was given."""

    name: str
    node: str | None = None

    def __str__(self) -> str:
        return f"{self.node}/{self.name}" if self.node else self.name


def parse_ref(text: str) -> Ref:
    """`NAME` or `NODE/NAME`; raises ValueError."""
    node, slash, name = text.rpartition("/")
    if not slash:
        return Ref(topics.check_name(text))
    return Ref(topics.check_name(name), topics.check_name(node))


def nearest_sizes(size_bytes: int) -> tuple[int, int]:
    """The multiples of the block size around a size that isn't one."""
    below = size_bytes - size_bytes % BLOCK_BYTES
    return max(below, BLOCK_BYTES), below + BLOCK_BYTES


class RefType(click.ParamType[Ref]):
    """`[NODE/]NAME`, or `NODE/NAME` where the node is needed."""

    def __init__(self, *, node_needed: bool = False) -> None:
        self._node_needed = node_needed
        self.name = "node/name" if node_needed else "[node/]name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Ref:
        """Parse, or fail as a usage error."""
        if isinstance(value, Ref):
            return value
        try:
            ref = parse_ref(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if self._node_needed and ref.node is None:
            self.fail(f"'{ref.name}' lacks its node: write NODE/{ref.name}", param, ctx)
        return ref


class SizeType(click.ParamType[int]):
    """A volume's size: a multiple of 4096 bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail as a usage error that names the nearest sizes."""
        if isinstance(value, int):
            return value
        try:
            size_bytes = parse_size(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if size_bytes == 0 or size_bytes > MAX_VOLUME_BYTES:
            limits = f"{BLOCK_BYTES} bytes to {exact_size(MAX_VOLUME_BYTES)}"
            self.fail(f"a volume has {limits}", param, ctx)
        if size_bytes % BLOCK_BYTES:
            low, high = nearest_sizes(size_bytes)
            near = f"{low}" if low == high else f"{low} and {high}"
            self.fail(
                f"{size_bytes} bytes are no multiple of {BLOCK_BYTES}; the nearest: {near}",
                param,
                ctx,
            )
        return size_bytes


class RateType(click.ParamType[int]):
    """Bytes a second, at least 1 MiB."""

    name = "bytes/s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail as a usage error."""
        if isinstance(value, int):
            return value
        try:
            rate = parse_size(str(value).removesuffix("/s"))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if rate < 1 << 20:
            self.fail("the least rate limit is 1MiB a second", param, ctx)
        return rate


# ---------------------------------------------------------------- completion


def root_session(ctx: click.Context) -> Session:
    """The global options as far as they are typed already (callbacks don't run here)."""
    params = ctx.find_root().params
    broker = params.get("broker")
    return Session(
        broker=broker if isinstance(broker, Endpoint) else None, config=params.get("config")
    )


def _complete_states(kind: topics.StateKind) -> Completer:
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
        async def names(client: ApiClient) -> list[str]:
            found: set[str] = set()
            for topic in await client.states(f"{topics.ROOT}/+/state/{kind}/+"):
                address = topics.parse(topic)
                if address is not None:
                    found |= {address.rest[1], f"{address.node}/{address.rest[1]}"}
            return sorted(found)

        with_node = "/" in incomplete
        return [
            name
            for name in quietly(root_session(ctx), names)
            if name.startswith(incomplete) and ("/" in name) == with_node
        ]

    return complete


complete_volume = _complete_states("volume")
complete_pair = _complete_states("pair")
complete_job = _complete_states("job")


def complete_initiator(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Initiators that are logged in somewhere, or are in a volume's list."""

    async def names(client: ApiClient) -> list[str]:
        states = await client.states(f"{topics.ROOT}/+/state/volume/+")
        found: set[str] = set()
        for info in states.values():
            if isinstance(info, VolumeInfo):
                found |= {*info.initiators, *(each.initiator for each in info.sessions)}
        return sorted(found)

    return [n for n in quietly(root_session(ctx), names) if n.startswith(incomplete)]


def complete_node(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of controllers."""

    async def names(client: ApiClient) -> list[str]:
        nodes = await client.discover()
        return [n for n, status in nodes.items() if status.kind is NodeKind.CONTROLLER]

    return [n for n in quietly(root_session(ctx), names) if n.startswith(incomplete)]


def complete_data_set(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of data sets."""

    async def names(client: ApiClient) -> list[str]:
        nodes = await client.discover()
        return sorted({ref.name for status in nodes.values() for ref in status.data_sets})

    return [n for n in quietly(root_session(ctx), names) if n.startswith(incomplete)]


def complete_remote_pair(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of the remote pairs of data sets."""

    async def names(client: ApiClient) -> list[str]:
        nodes = await client.discover()
        found = {ref.remote_pair for status in nodes.values() for ref in status.data_sets}
        return sorted(found - {""})

    return [n for n in quietly(root_session(ctx), names) if n.startswith(incomplete)]


def complete_node_slash(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Controllers with a slash behind them, for a volume that is yet to be made."""
    return [f"{node}/" for node in complete_node(ctx, param, incomplete)]


PAIR_STATES = click.Choice([state.value for state in PairState], case_sensitive=False)
