"""Two real controllers behind a real broker, killed and started again while hosts write.

Owns the processes (through `deploy.pair`), the client that asks them, and their volume files.
Must not decide when something dies. Fails with AssertionError that shows both sides' pairs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api import topics
from controller.api.errors import RejectedError
from controller.service.client import ApiClient
from controller.service.mqtt import Backoff, Broker
from deploy.pair import PATH, LocalPair

SIZE_BYTES = 4 << 20
INTENT = "[intent]\nextent_bytes = 65536\nhot_extents = 8\n"
"""So small that extents are evicted all the time."""
PATIENCE_S = 90.0
RATE_BYTES_PER_S = 16 << 20
"""Of every copy: a full one takes a quarter of a second, in which something can die."""
POLL_S = 0.02
SETTLED_WITHIN_S = 120.0
QUICK = Backoff(first_s=0.02, cap_s=0.1)
NODE_OF = {"first": "ctl1", "second": "ctl2", "third": "ctl2"}

S = m.PairState
REMOTE = m.Named(name="remote")
Pairs = dict[str, m.PairInfo]


class Machines:
    """`ctl1` with the first volume, `ctl2` with the second and the third."""

    def __init__(self, processes: LocalPair, api: ApiClient) -> None:
        self._processes = processes
        self.api = api
        self.volumes: dict[str, m.VolumeInfo] = {}

    # ------------------------------------------------------------ life and death

    async def start(self, *nodes: str) -> None:
        """Start controllers; they come up in their own time."""
        for node in nodes:
            await asyncio.to_thread(self._processes.launch_controller, int(node[-1]))

    def kill(self, *nodes: str) -> None:
        """SIGKILL, to all at once; returns when they are gone."""
        for node in nodes:
            os.kill(self._processes.pids[node][0], signal.SIGKILL)
        for node in nodes:
            # A zombie may still have threads, and they its files: only reaped it is gone.
            self._processes.children[self._processes.pids[node][0]].wait()
            self._processes.kill(node)

    def alive(self, node: str) -> bool:
        """Whether its process still runs."""
        return self._processes.alive(node)

    # ------------------------------------------------------------ asking

    async def do(self, node: str, verb: str, params: m.Params) -> m.Info:
        """One command; RejectedError when it is refused, or not answered in time."""
        return await self.api.call(node, verb, params, PATIENCE_S)

    async def pairs(self) -> Pairs:
        """`remote` as each side shows it, and `local`."""
        first, second = await asyncio.gather(
            self.api.call_for(m.PairList, "ctl1", "pair.list", m.Empty(), PATIENCE_S),
            self.api.call_for(m.PairList, "ctl2", "pair.list", m.Empty(), PATIENCE_S),
        )
        shown = {f"{pair.name}@ctl1": pair for pair in first.pairs}
        return shown | {f"{pair.name}@ctl2": pair for pair in second.pairs}

    async def shown(self, node: str) -> str:
        """The remote pair's state as a node told it last, dead or alive."""
        states = await self.api.states(topics.state(node, "pair", "remote"))
        return ", ".join(
            str(info.state) for info in states.values() if isinstance(info, m.PairInfo)
        )

    async def cut_off(self, node: str) -> None:
        """Wait until a node knows that its peer is away."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                pair = await self.api.call_for(m.PairInfo, node, "pair.show", REMOTE)
                if not pair.peer_connected and pair.state is not S.PAIR:
                    return
                await asyncio.sleep(POLL_S)

    async def until(
        self, reached: Callable[[Pairs], bool], what: str, within_s: float = SETTLED_WITHIN_S
    ) -> Pairs:
        """Ask both until it is so."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while True:
            pairs = await self.pairs()
            if reached(pairs):
                return pairs
            shown = "\n".join(f"{name}: {pair}" for name, pair in pairs.items())
            assert loop.time() < deadline_s, f"not within {within_s:.0f} s: {what}\n{shown}"
            for node in ("ctl1", "ctl2"):
                assert self.alive(node), f"{node} has ended by itself"
            await asyncio.sleep(POLL_S)

    def image(self, volume: str) -> bytes:
        """What the file of a volume holds now."""
        naa = self.volumes[volume].naa
        directory = self._processes.directory / "state" / NODE_OF[volume] / "volumes"
        (path,) = (each for each in directory.glob("*.volume") if each.stem[2:] == naa[2:])
        return path.read_bytes()

    # ------------------------------------------------------------ the chain

    async def _linked(self) -> None:
        """Wait until both have greeted each other."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                both = [
                    await self.api.call_for(m.NodeInfo, node, "node.show", m.Empty())
                    for node in ("ctl1", "ctl2")
                ]
                if all(all(each.status.peers.values()) for each in both):
                    return
                await asyncio.sleep(POLL_S)

    async def build(self, mode: m.Mode) -> None:
        """Three volumes and two pairs, all in PAIR."""
        await self._linked()
        for volume, node in NODE_OF.items():
            asked = m.VolumeCreate(name=volume, size_bytes=SIZE_BYTES)
            self.volumes[volume] = await self.api.call_for(
                m.VolumeInfo, node, "volume.create", asked
            )
        remote = m.PairCreate(
            name="remote",
            kind=m.PairKind.REMOTE,
            p_volume="first",
            s_volume="second",
            peer="ctl2",
            mode=mode,
            rate_limit_bytes_per_s=RATE_BYTES_PER_S,
        )
        local = m.PairCreate(
            name="local",
            kind=m.PairKind.LOCAL,
            p_volume="second",
            s_volume="third",
            rate_limit_bytes_per_s=RATE_BYTES_PER_S,
        )
        await self.do("ctl1", "pair.create", remote)
        await self.until(remote_in_sync, "the initial copy ends")
        await self.do("ctl2", "pair.create", local)
        await self.until(all_in_sync, "the local pair's initial copy ends")


def _in_sync(pair: m.PairInfo | None) -> bool:
    return (
        pair is not None
        and pair.state is S.PAIR
        and (pair.kind is m.PairKind.LOCAL or pair.peer_connected)
        and pair.dirty_bytes == 0
    )


def remote_in_sync(pairs: Pairs) -> bool:
    """Both sides of the remote pair are in PAIR and connected."""
    return _in_sync(pairs.get("remote@ctl1")) and _in_sync(pairs.get("remote@ctl2"))


def all_in_sync(pairs: Pairs) -> bool:
    """And the local pair as well."""
    return remote_in_sync(pairs) and _in_sync(pairs.get("local@ctl2"))


async def refusal(answer: asyncio.Task[m.Info]) -> RejectedError | None:
    """Wait for a command that was under way when something died; None when it was done."""
    try:
        await answer
    except RejectedError as error:
        return error
    return None


@asynccontextmanager
async def two_machines(directory: Path, mode: m.Mode) -> AsyncIterator[Machines]:
    """A chain in PAIR; every process that was started is ended by its own pid."""
    if shutil.which("mosquitto", path=PATH) is None:
        pytest.skip("needs 'mosquitto' (Debian package mosquitto)")
    processes = LocalPair(directory)
    processes.configure()
    for node in ("ctl1", "ctl2"):
        with (directory / "conf" / f"{node}.toml").open("a", encoding="utf-8") as file:
            file.write(INTENT)
    numbers, run = itertools.count(1), secrets.token_hex(4)
    api = ApiClient(
        Broker("127.0.0.1", processes.ports["broker"]),
        client_id="operator",
        new_id=lambda: f"operator-{run}-{next(numbers)}",
        patience_s=PATIENCE_S,
        backoff=QUICK,
    )
    try:
        processes.launch_broker()
        async with api:
            machines = Machines(processes, api)
            await machines.start("ctl1", "ctl2")
            await machines.build(mode)
            yield machines
    finally:
        await asyncio.to_thread(_stop, processes)


def _stop(processes: LocalPair) -> None:
    processes.stop()
    for child in processes.children.values():
        child.wait()
