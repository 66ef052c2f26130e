"""A node for tests: the real bus with canned answers behind it.

Owns what the fake node remembers of its commands. Everything between the broker and the handler
is the real thing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from controller.api import messages as m
from controller.api.verbs import Verb
from controller.service.bus import Answer, Bus
from controller.service.client import ApiClient
from controller.service.mqtt import Broker
from controller.service.requests import RequestJournal
from tests.brokers import QUICK

Canned = Callable[[Verb, m.Params, m.Request], Answer]


class FakeNode:
    """Answers every verb by `canned` and counts how often each request id was carried out."""

    def __init__(self, bus: Bus, carried_out: list[tuple[str, m.Params, str]]) -> None:
        self.bus = bus
        self.carried_out = carried_out

    async def flushed(self) -> None:
        """Return once the broker has confirmed everything that was published."""
        async with asyncio.timeout(10):
            while self.bus._connection._outbox:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


def controller_status(node: str = "ctl1", **more: object) -> m.NodeStatus:
    """A controller's status."""
    fields: dict[str, object] = {
        "node": node,
        "kind": m.NodeKind.CONTROLLER,
        "online": True,
        "version": "0.1.0",
    }
    return m.NodeStatus.model_validate(fields | more)


def agent_status(node: str, data_set: str, part: str) -> m.NodeStatus:
    """An agent's status with one data set."""
    return controller_status(
        node, kind=m.NodeKind.AGENT, data_sets=[{"name": data_set, "part": part}]
    )


def volume_info(name: str = "v1", node: str = "ctl1", **more: object) -> m.VolumeInfo:
    """A healthy volume of 1 MiB."""
    fields: dict[str, object] = {
        "name": name,
        "node": node,
        "size_bytes": 1 << 20,
        "allocated_bytes": 0,
        "access": m.AccessInfo.READ_WRITE,
        "consistent": True,
        "healthy": True,
        "generation": "1f",
        "pairs": [],
        "target": f"iqn.2026-11.io.trilun:{name}",
    }
    return m.VolumeInfo.model_validate(fields | more)


def pair_info(name: str = "p1", node: str = "ctl1", **more: object) -> m.PairInfo:
    """The P-VOL's side of a remote pair in PAIR."""
    fields: dict[str, object] = {
        "name": name,
        "node": node,
        "kind": m.PairKind.REMOTE,
        "role": m.Role.P_VOL,
        "state": m.PairState.PAIR,
        "p_volume": "v1",
        "s_volume": "v2",
        "peer": "ctl2",
        "peer_connected": True,
        "mode": m.Mode.SYNC,
        "fence": m.Fence.NEVER,
        "dirty_bytes": 0,
        "generation": "1f",
    }
    return m.PairInfo.model_validate(fields | more)


def job_info(job_id: str = "job1", node: str = "host2", **more: object) -> m.JobInfo:
    """A restore job that runs."""
    fields: dict[str, object] = {
        "id": job_id,
        "kind": m.JobKind.RESTORE,
        "data_set": "db",
        "node": node,
        "state": m.JobState.RUNNING,
        "step": "copy",
        "steps": ["plan", "copy", "verify"],
        "started_at": 0.0,
    }
    return m.JobInfo.model_validate(fields | more)


@asynccontextmanager
async def fake_node(
    broker: Broker,
    directory: Path,
    canned: Canned,
    status: m.NodeStatus | None = None,
) -> AsyncIterator[FakeNode]:
    """A node that is on the broker when this is entered, and says offline when it is left."""
    status = status or controller_status()
    carried_out: list[tuple[str, m.Params, str]] = []

    async def handle(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        carried_out.append((verb.name, params, request.id))
        return canned(verb, params, request)

    journal = await RequestJournal.open(directory / f"{status.node}-requests.log")
    bus = Bus(broker, status=status, handler=handle, journal=journal, backoff=QUICK)
    try:
        async with bus:
            await bus.wait_connected()
            node = FakeNode(bus, carried_out)
            await node.flushed()
            yield node
    finally:
        await journal.close()


@asynccontextmanager
async def api_client(
    broker: Broker, client_id: str = "test-client", patience_s: float = 5.0
) -> AsyncIterator[ApiClient]:
    """A client with ids `<client_id>-1`, `-2` …"""
    numbers = itertools.count(1)
    client = ApiClient(
        broker,
        client_id=client_id,
        new_id=lambda: f"{client_id}-{next(numbers)}",
        patience_s=patience_s,
        backoff=QUICK,
    )
    async with client:
        yield client
