"""A whole data set on this machine, with databases in host 1's configuration.

Owns the processes (through `deploy.pair`), the chain of three volumes with ext4 on it, and the
client that commands it all. Nothing stays mounted, attached or running, however a test ends.
Fails with AssertionError that shows the agents' logs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.service.client import ApiClient
from controller.service.mqtt import Backoff, Broker
from deploy.pair import DATA_SET, LocalPair
from hostagent.filesystem.mounts import find_mount, mount_table
from hostagent.programs import find_program, run_program

SIZE_BYTES = 192 << 20
WITHIN_S = 60.0
POLL_S = 0.02
QUICK = Backoff(first_s=0.02, cap_s=0.1)
PACKAGES = {
    "mosquitto": "mosquitto",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "setpriv": "util-linux",
}


def need_host() -> None:
    """Skip, by name, where a host can't be played."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices, the servers' own users)")
    for program, package in PACKAGES.items():
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package {package}")


class DataSet:
    """First, second and third volume, two controllers, two agents."""

    def __init__(self, pair: LocalPair, api: ApiClient) -> None:
        self._pair = pair
        self.api = api

    @property
    def directory(self) -> Path:
        """For sockets and logs; everybody may enter it."""
        return self._pair.directory

    @property
    def mountpoint(self) -> Path:
        """Where host 1 has the first volume."""
        return self._pair.mountpoint

    def logs(self) -> str:
        """What the agents said."""
        paths = [self.directory / "log" / f"host{number}.log" for number in (1, 2)]
        return "\n".join(path.read_text()[-6000:] for path in paths if path.exists())

    async def build(self) -> None:
        """Controllers, volumes, pairs, a file system, agents, and the first volume mounted."""
        pair = self._pair
        for number in (1, 2):
            pair.launch_controller(number)
        await self._linked()
        asked = m.VolumeCreate(name="first", size_bytes=SIZE_BYTES)
        first = await self.api.call_for(m.VolumeInfo, "ctl1", "volume.create", asked)
        for name in ("second", "third"):
            asked = m.VolumeCreate(name=name, size_bytes=SIZE_BYTES)
            await self.api.call("ctl2", "volume.create", asked)
        await self._paired("ctl1", "demo-remote", m.PairKind.REMOTE, "first", "second")
        await self._paired("ctl2", "demo-local", m.PairKind.LOCAL, "second", "third")
        await asyncio.to_thread(self._make_filesystem, first)
        for number in (1, 2):
            pair.launch_agent(number)
        async with asyncio.timeout(WITHIN_S):
            while find_mount(self.mountpoint) is None:  # noqa: ASYNC110 - another process mounts
                await asyncio.sleep(POLL_S)

    async def _linked(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                info = await self.api.call_for(m.NodeInfo, "ctl1", "node.show", m.Empty())
                if all(info.status.peers.values()):
                    return
                await asyncio.sleep(POLL_S)

    async def _paired(self, node: str, name: str, kind: m.PairKind, p: str, s: str) -> None:
        peer = "ctl2" if kind is m.PairKind.REMOTE else None
        params = m.PairCreate(name=name, kind=kind, p_volume=p, s_volume=s, peer=peer)
        await self.api.call(node, "pair.create", params)
        async with asyncio.timeout(WITHIN_S):
            while True:
                named = m.Named(name=name)
                info = await self.api.call_for(m.PairInfo, node, "pair.show", named)
                if info.state is m.PairState.PAIR:
                    return
                await asyncio.sleep(POLL_S)

    def _make_filesystem(self, first: m.VolumeInfo) -> None:
        image = self.directory / "blank.img"
        with image.open("wb") as output:
            output.truncate(SIZE_BYTES)
        options = ["-q", "-F", "-E", "lazy_itable_init=0"]
        run_program([self._pair.tool("mkfs.ext4"), *options, str(image)])
        url = f"iscsi://{first.portals[0]}/{first.target}/{first.lun}"
        convert = ["convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw", str(image), url]
        run_program([self._pair.tool("qemu-img"), *convert])
        image.unlink()

    # ------------------------------------------------------------ jobs

    async def backup(self) -> m.JobInfo:
        """Take a backup and wait for its end."""
        return await self._job("host1", "job.backup", m.BackupStart(data_set=DATA_SET))

    async def restore(self, *paths: str, **more: Any) -> m.JobInfo:
        """Restore to their own places, over what is there, and wait for the end."""
        asked = {"data_set": DATA_SET, "paths": paths, "conflict": "overwrite", **more}
        return await self._job("host2", "job.restore", m.RestoreStart.model_validate(asked))

    async def _job(self, node: str, verb: str, params: m.Params) -> m.JobInfo:
        begun = await self.api.call_for(m.JobInfo, node, verb, params)
        topic = f"trilun/v1/{node}/state/job/{begun.id}"

        def ended(_topic: str, info: Any) -> bool:
            return isinstance(info, m.JobInfo) and info.state is not m.JobState.RUNNING

        _, info = await self.api.wait_until(topic, ended, timeout_s=WITHIN_S)
        assert isinstance(info, m.JobInfo)
        return info

    async def checked(self) -> m.DatabaseInfo:
        """Have host 1 start and check its database, as an operator."""
        params, named = m.DbRecover(data_set=DATA_SET), m.DataSetNamed(data_set=DATA_SET)
        info = await self.api.call_for(m.RecoveryInfo, "host1", "db.recover", params)
        async with asyncio.timeout(WITHIN_S):
            while info.running:
                await asyncio.sleep(POLL_S)
                info = await self.api.call_for(m.RecoveryInfo, "host1", "db.show", named)
        return info.databases[0]


@asynccontextmanager
async def data_set(directory: Path, database: str) -> AsyncIterator[DataSet]:
    """A data set in PAIR, mounted; `database` is added to host 1's configuration."""
    pair = LocalPair(directory)
    pair.configure()
    with (directory / "conf" / "host1.toml").open("a", encoding="utf-8") as file:
        # A busy machine takes its time, and the guard is not what is looked at here.
        file.write("freeze_ttl_s = 60\n" + database)
    numbers, run = itertools.count(1), secrets.token_hex(4)
    api = ApiClient(
        Broker("127.0.0.1", pair.ports["broker"]),
        client_id="operator",
        new_id=lambda: f"operator-{run}-{next(numbers)}",
        patience_s=WITHIN_S,
        backoff=QUICK,
    )
    try:
        pair.launch_broker()
        async with api:
            made = DataSet(pair, api)
            await made.build()
            yield made
    finally:
        await asyncio.to_thread(_stop, pair)
    left = [mount for mount in mount_table() if str(mount.mountpoint).startswith(str(directory))]
    assert not left, left


def _stop(pair: LocalPair) -> None:
    pair.stop()
    for child in pair.children.values():
        child.wait()


def short_directory() -> Path:
    """Sockets and mount points have to have short paths; other users may enter it."""
    path = Path(tempfile.mkdtemp(prefix="trilun-db-"))
    path.chmod(0o755)
    return path


def remove(directory: Path) -> None:
    """Remove what a test has left."""
    shutil.rmtree(directory)


def as_user(user: str) -> list[str]:
    """What makes a command run as a server's own user."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def run_as(user: str, *argv: str) -> str:
    """Run a command as a server's own user; fails with what it said."""
    done = subprocess.run(
        [*as_user(user), *argv], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
