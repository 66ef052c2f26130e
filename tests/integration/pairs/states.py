"""A remote pair brought into a state, for tests of what may be done in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.errors import RejectedError
from controller.volume.faulty import FaultRule
from tests.integration.pairs.faults import Faults
from tests.rig import Running, remote_pair, two_nodes, write

S = m.PairState
BLOCK = 4096
SIZE = 4 << 20
SLOW_BYTES_PER_S = 1 << 20
"""Three MiB take seconds at this rate: a copy stays while the test looks at it."""

REVERSE = m.Direction.REVERSE


async def volumes(a: Running, b: Running) -> None:
    await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
    await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=SIZE))


async def in_sync(a: Running, b: Running, **remote: object) -> None:
    await volumes(a, b)
    await a.do("pair.create", remote_pair(**remote))
    await a.until("remote", S.PAIR)
    await b.until("remote", S.PAIR)


@asynccontextmanager
async def nodes_in(state: m.PairState, directory: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Two nodes whose remote pair is in `state` at the primary, with the link up."""
    faults = Faults()
    async with two_nodes(directory, wrap_b=faults.wrap) as (a, b):
        if state is S.SMPL:
            await volumes(a, b)
        elif state is S.COPY:
            await volumes(a, b)
            await write(a.volume("first"), 0, b"c" * (3 << 20))
            await a.do("pair.create", remote_pair(rate_limit_bytes_per_s=SLOW_BYTES_PER_S))
        else:
            await in_sync(a, b)
        if state is S.PSUE:
            rule = FaultRule("write", "fail")
            faults.disk.rules(b.node.volumes.get("second").record.id, rule)
            await write(a.volume("first"), 0, b"f" * BLOCK)
            await b.until("remote", S.PSUE)
        elif state in (S.PSUS, S.RCPY):
            await a.do("pair.split", m.PairSplit(name="remote", writable=True))
        if state is S.RCPY:
            await write(b.volume("second"), 0, b"r" * (3 << 20))
            await a.do(
                "pair.resync",
                m.PairResync(
                    name="remote", direction=REVERSE, rate_limit_bytes_per_s=SLOW_BYTES_PER_S
                ),
            )
        if state is not S.SMPL:
            await a.until("remote", state)
        yield a, b


def shown(node: Running) -> m.PairState:
    return S.SMPL if node.node.pairs.find("remote") is None else node.pair("remote").state


async def refused(node: Running, verb: str, params: m.Params) -> RejectedError:
    with pytest.raises(RejectedError) as raised:
        await node.do(verb, params)
    assert raised.value.message
    return raised.value
