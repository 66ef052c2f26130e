"""Backup and restore end to end: two real agents, a real broker, real LUNs and file systems.

The controllers are played by one process that keeps the three volumes as images behind tgtd and
mirrors them by copying whole images; everything the agents do is real.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import PairState as P
from controller.api.verbs import Verb
from controller.service.bus import Answer, Bus
from controller.service.client import ApiClient
from controller.service.mqtt import Broker
from controller.service.requests import RequestJournal
from hostagent.attach.attacher import LunAddress
from hostagent.filesystem.mounts import find_mount, mount_table
from hostagent.programs import find_program
from tests.integration.hostagent.conftest import Target, fsck, make_image

pytestmark = [pytest.mark.root, pytest.mark.tools]


class Controllers:
    """Both controllers of one data set, with whole-image copies for mirrors."""

    def __init__(self, folder: Path, filesystem: str, target: Target) -> None:
        self.images = {name: folder / name for name in ("v1", "v2", "v3")}
        make_image(self.images["v1"], filesystem)
        self.remote, self.local = P.PAIR, P.PAIR
        self.copies_back = 0
        self.writable = False
        for name in ("v2", "v3"):
            self.mirror("v1", name)
        self.addresses = {name: target.serve(path) for name, path in self.images.items()}
        self.target = target
        self.folder = folder
        self.verbs: list[str] = []

    def mirror(self, source: str, to: str) -> None:
        """Copy in place: the target daemon has the file open."""
        path = self.images[to]
        path.touch()
        with self.images[source].open("rb") as one, path.open("r+b") as two:
            shutil.copyfileobj(one, two, 1 << 20)

    async def handle(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        self.verbs.append(verb.name)
        result = await asyncio.to_thread(getattr(self, verb.name.replace(".", "_")), params)
        return Answer(result=result)

    def pair_show(self, params: m.Named) -> m.PairInfo:
        return self._pair(params.name)

    def backup_mark(self, params: m.BackupMark) -> m.PairInfo:
        assert self.remote is P.PAIR
        assert self.local is P.PAIR
        self.mirror("v1", "v2")
        self.mirror("v2", "v3")
        self.local = P.PSUS
        return self._pair("lp")

    def pair_split(self, params: m.PairSplit) -> m.PairInfo:
        if self.remote is P.PAIR:
            self.mirror("v1", "v2")
        self.remote, self.writable = P.PSUS, params.writable
        return self._pair("rp")

    def pair_resync(self, params: m.PairResync) -> m.PairInfo:
        if params.name == "lp":
            self.local = P.PAIR
        else:
            reverse = params.direction is m.Direction.REVERSE
            self.copies_back += reverse
            self.mirror(*(("v2", "v1") if reverse else ("v1", "v2")))
            self.remote = P.PAIR
        return self._pair(params.name)

    def view_open(self, params: m.ViewOpen) -> m.VolumeInfo:
        if params.view not in self.addresses:
            self.images[params.view] = self.folder / params.view
            self.mirror("v3", params.view)
            self.addresses[params.view] = self.target.serve(self.images[params.view])
        return self._volume(params.view)

    def view_close(self, params: m.Named) -> m.VolumeInfo:
        return self._volume(params.name)

    def volume_show(self, params: m.Named) -> m.VolumeInfo:
        return self._volume(params.name)

    def _volume(self, name: str) -> m.VolumeInfo:
        if name not in self.addresses:
            raise RejectedError(Code.NOT_FOUND, f"no volume {name}")
        address: LunAddress = self.addresses[name]
        writable = name != "v2" or self.writable
        return m.VolumeInfo(
            name=name,
            node="c2",
            size_bytes=self.images[name].stat().st_size,
            allocated_bytes=0,
            access=m.AccessInfo.READ_WRITE if writable else m.AccessInfo.READ_ONLY,
            consistent=True,
            healthy=True,
            generation="g",
            pairs=[],
            target=address.iqn,
            portals=[address.portal],
            lun=address.lun,
        )

    def _pair(self, name: str) -> m.PairInfo:
        remote = name == "rp"
        return m.PairInfo(
            name=name,
            node="c1" if remote else "c2",
            kind=m.PairKind.REMOTE if remote else m.PairKind.LOCAL,
            role=m.Role.P_VOL,
            state=self.remote if remote else self.local,
            p_volume="v1" if remote else "v2",
            s_volume="v2" if remote else "v3",
            peer="c2" if remote else None,
            peer_connected=True,
            mode=m.Mode.SYNC,
            fence=m.Fence.NEVER,
            dirty_bytes=0,
            generation="g",
            goal="split" if (self.remote if remote else self.local) is P.PSUS else "mirror",
            copies_back=self.copies_back if remote else 0,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    program = find_program("mosquitto")
    if program is None:
        pytest.skip("needs 'mosquitto' of the package mosquitto")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    daemon = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    yield Broker("127.0.0.1", port)
    daemon.terminate()
    daemon.wait()


class Agents:
    """Two agents as processes of their own."""

    def __init__(self, runtime: Path, broker: Broker, filesystem: str, mount_with: str) -> None:
        self.runtime = runtime
        self.mountpoint = runtime / "srv"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        for node, part in (("h1", "host1"), ("h2", "host2")):
            (runtime / f"{node}.toml").write_text(f"""
node = "{node}"
state_dir = "{runtime}/state-{node}"
runtime_dir = "{runtime}/run-{node}"
broker = {{ host = "127.0.0.1", port = {broker.port} }}
attach = {{ kind = "qemu" }}
[[data_set]]
name = "ds"
part = "{part}"
filesystem = "{filesystem}"
primary = "c1"
first = "v1"
remote_pair = "rp"
secondary = "c2"
second = "v2"
local_pair = "lp"
third = "v3"
host1 = "h1"
host2 = "h2"
mountpoint = "{self.mountpoint}"
mount_with = "{mount_with}"
""")

    def start(self, node: str) -> None:
        config = self.runtime / f"{node}.toml"
        with (self.runtime / f"{node}.log").open("ab") as log:
            self.running[node] = subprocess.Popen(
                [sys.executable, "-m", "hostagent.daemon", "--config", str(config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, node: str, sign: int = signal.SIGTERM) -> None:
        process = self.running.pop(node)
        process.send_signal(sign)
        process.wait(30)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.runtime.glob("h*.log")))


async def until(condition: Callable[[], bool], agents: Agents) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(agents.logs()) from None


Started = tuple[Controllers, Agents, ApiClient]
Start = Callable[..., Awaitable[Started]]


@pytest.fixture
async def start(
    target: Target, tmp_path: Path, runtime: Path, broker: Broker
) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:
        agents: list[Agents] = []

        async def begin(filesystem: str, mount_with: str = "auto") -> Started:
            controllers = Controllers(tmp_path, filesystem, target)
            for node in ("c1", "c2"):
                journal = await RequestJournal.open(tmp_path / node / "requests.log")
                stack.push_async_callback(journal.close)
                status = m.NodeStatus(
                    node=node, kind=m.NodeKind.CONTROLLER, online=True, version="0"
                )
                bus = Bus(broker, status=status, handler=controllers.handle, journal=journal)
                await stack.enter_async_context(bus)
            number = iter(range(1000))
            client = ApiClient(
                broker, client_id="test", new_id=lambda: f"t{next(number)}", patience_s=20
            )
            await stack.enter_async_context(client)
            agents.append(Agents(runtime, broker, filesystem, mount_with))
            for node in ("h1", "h2"):
                agents[0].start(node)
            await until(lambda: find_mount(agents[0].mountpoint) is not None, agents[0])
            return controllers, agents[0], client

        yield begin
        for node in list(agents[0].running) if agents else []:
            agents[0].end(node)
    left = [mount for mount in mount_table() if str(mount.mountpoint).startswith(str(runtime))]
    assert not left, left


async def job(client: ApiClient, node: str, verb: str, params: m.Params) -> m.JobInfo:
    begun = await client.call(node, verb, params)
    assert isinstance(begun, m.JobInfo)
    return await ended(client, node, begun.id)


async def ended(client: ApiClient, node: str, job_id: str) -> m.JobInfo:
    def reached(_topic: str, info: Any) -> bool:
        return isinstance(info, m.JobInfo) and info.state is not m.JobState.RUNNING

    _, info = await client.wait_until(f"trilun/v1/{node}/state/job/{job_id}", reached, timeout_s=90)
    assert isinstance(info, m.JobInfo)
    return info


def fill(folder: Path, size_bytes: int) -> dict[str, bytes]:
    (folder / "tables").mkdir()
    files = {f"tables/t{n}": os.urandom(size_bytes) for n in range(3)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "log").write_bytes(b"before")
    return files


def spoil(folder: Path) -> None:
    (folder / "tables/t0").write_bytes(b"spoiled")
    (folder / "tables/t1").unlink()
    (folder / "log").write_bytes(b"after")


@pytest.mark.parametrize(
    ("filesystem", "mount_with"),
    [("ext4", "kernel"), ("xfs", "auto"), ("btrfs", "auto"), ("ext4", "fuse2fs")],
)
async def test_backup_spoil_restore(start: Start, filesystem: str, mount_with: str) -> None:
    controllers, agents, client = await start(filesystem, mount_with)
    files = fill(agents.mountpoint, 1 << 20)
    os.sync()
    quiesce = mount_with != "fuse2fs"
    backup = await job(
        client, "h1", "job.backup", m.BackupStart(data_set="ds", label="one", quiesce=quiesce)
    )
    assert backup.state is m.JobState.DONE, f"{backup}\n{agents.logs()}"
    assert backup.receipt is not None
    assert (backup.receipt.frozen_s > 0) == quiesce
    spoil(agents.mountpoint)
    paths = [f"{agents.mountpoint}/tables"]
    plan = await job(
        client, "h2", "job.restore", m.RestoreStart(data_set="ds", paths=paths, dry_run=True)
    )
    assert plan.state is m.JobState.DONE, f"{plan}\n{agents.logs()}"
    assert plan.plan is not None
    assert plan.plan.bytes_to_copy == 3 << 20
    assert "pair.split" not in controllers.verbs
    info = await job(client, "h2", "job.restore", m.RestoreStart(data_set="ds", paths=paths))
    assert info.state is m.JobState.DONE, f"{info}\n{agents.logs()}"
    assert info.receipt is not None
    assert info.receipt.file_bytes == 3 << 20
    for name, data in files.items():
        assert (agents.mountpoint / name).read_bytes() == data
    assert (agents.mountpoint / "log").read_bytes() == b"after"
    for node in ("h1", "h2"):
        agents.end(node)
    assert find_mount(agents.mountpoint) is None, "a clean stop unmounts"
    fsck(controllers.images["v1"], filesystem)


async def test_a_busy_first_volume_is_refused_by_name_and_left_as_it_was(start: Start) -> None:
    controllers, agents, client = await start("ext4")
    fill(agents.mountpoint, 4096)
    await job(client, "h1", "job.backup", m.BackupStart(data_set="ds"))
    with (agents.mountpoint / "log").open("rb"):
        info = await job(client, "h2", "job.restore", m.RestoreStart(data_set="ds", paths=["log"]))
    assert (info.state, info.code) == (m.JobState.FAILED, Code.IN_USE)
    assert f"pid {os.getpid()}" in info.error
    assert controllers.remote is P.PAIR
    assert find_mount(agents.mountpoint) is not None
    shown = await client.call("h1", "fs.show", m.DataSetNamed(data_set="ds"))
    assert isinstance(shown, m.HostFs)
    assert (shown.mounted, shown.released_for) == (True, "")


@pytest.mark.parametrize("step", ["mount-view", "copy", "verify", "reclaim"])
async def test_an_agent_killed_in_the_middle_goes_on(start: Start, step: str) -> None:
    _, agents, client = await start("ext4")
    files = fill(agents.mountpoint, 8 << 20)
    await job(client, "h1", "job.backup", m.BackupStart(data_set="ds"))
    spoil(agents.mountpoint)
    begun = await client.call("h2", "job.restore", m.RestoreStart(data_set="ds", paths=["tables"]))
    assert isinstance(begun, m.JobInfo)

    def reached(_topic: str, info: Any) -> bool:
        return isinstance(info, m.JobInfo) and info.step == step

    topic = f"trilun/v1/h2/state/job/{begun.id}"
    await client.wait_until(topic, reached, timeout_s=60)
    agents.end("h2", signal.SIGKILL)
    agents.start("h2")
    info = await ended(client, "h2", begun.id)
    assert info.state is m.JobState.DONE, f"{info}\n{agents.logs()}"
    await until(lambda: find_mount(agents.mountpoint) is not None, agents)
    for name, data in files.items():
        assert (agents.mountpoint / name).read_bytes() == data
    assert not list((agents.mountpoint / "tables").glob(".trilun-*"))


async def test_what_is_released_stays_released_when_the_agent_dies(start: Start) -> None:
    _, agents, client = await start("ext4")
    (agents.mountpoint / "x").write_text("kept")
    release = m.FsRelease(data_set="ds", job="restore-1")
    info = await client.call("h1", "fs.release", release)
    assert isinstance(info, m.HostFs)
    assert (info.mounted, info.released_for) == (False, "restore-1")
    agents.end("h1", signal.SIGKILL)
    agents.start("h1")
    shown = await client.call("h1", "fs.show", m.DataSetNamed(data_set="ds"))
    assert shown == info
    with pytest.raises(RejectedError) as caught:
        await client.call("h1", "fs.release", m.FsRelease(data_set="ds", job="restore-2"))
    assert caught.value.code is Code.IN_USE
    with pytest.raises(RejectedError) as caught:
        await client.call("h1", "fs.reclaim", m.FsReclaim(data_set="ds", job="restore-2"))
    assert caught.value.code is Code.IN_USE
    with pytest.raises(RejectedError) as caught:
        await client.call("h1", "fs.freeze", m.FsFreeze(data_set="ds"))
    assert caught.value.code is Code.WRONG_STATE
    info = await client.call("h1", "fs.reclaim", m.FsReclaim(data_set="ds", job="restore-1"))
    assert isinstance(info, m.HostFs)
    assert (info.mounted, info.released_for) == (True, "")
    assert (agents.mountpoint / "x").read_text() == "kept"


async def test_a_dead_agent_leaves_nothing_frozen(start: Start) -> None:
    _, agents, client = await start("ext4")
    info = await client.call("h1", "fs.freeze", m.FsFreeze(data_set="ds", ttl_s=60))
    assert isinstance(info, m.HostFs)
    assert info.frozen
    with pytest.raises(RejectedError, match="is frozen"):
        await client.call("h1", "fs.release", m.FsRelease(data_set="ds", job="restore-1"))
    agents.end("h1", signal.SIGKILL)
    async with asyncio.timeout(20):
        await asyncio.to_thread((agents.mountpoint / "x").write_text, "waits until thawed")
    agents.start("h1")
    info = await client.call("h1", "fs.thaw", m.DataSetNamed(data_set="ds"))
    assert isinstance(info, m.HostFs)
    assert (info.frozen, info.mounted) == (False, True)
