"""Releases that fail: mounted again with the database running, at once or as soon as can be.

Everything is real but the initiator's fault, which can't be had otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.base import Info, Params
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import DatabaseState as S
from hostagent.attach.attacher import LunAddress
from hostagent.attach.qemu import QemuAttacher
from hostagent.config import DataSetConfig
from hostagent.errors import FinalError, HostError, ToolError, UnflushedError
from hostagent.filesystem.mounts import find_mount
from hostagent.filesystem.volumes import HostVolumes
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.programs import Blocking
from hostagent.records import RecordStore
from hostagent.recovery.keeper import DatabaseKeeper
from tests.integration.hostagent.conftest import Target, make_image
from tests.unit.hostagent.test_recovery_keeper import HOOK
from tests.unit.hostagent.world import DATA_SET

pytestmark = [pytest.mark.root, pytest.mark.tools]

JOB = "restore-1"


class FaultyAttacher(QemuAttacher):
    """Fails to detach as often as it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "iqn.2026-11.io.trilun:host.test")
        self.faults: list[HostError] = []

    def detach(self, key: str, *, abandon: bool = False) -> None:
        """Detach, or fail."""
        if self.faults:
            raise self.faults.pop(0)
        super().detach(key, abandon=abandon)


class Primary:
    """Says where the first volume is, unless its link is cut."""

    def __init__(self, address: LunAddress) -> None:
        self._address = address
        self.cut = False

    async def call(self, node: str, verb: str, params: Params, request_id: str | None) -> Info:
        """What `volume.show` answers."""
        assert (node, verb, request_id) == ("c1", "volume.show", None)
        assert isinstance(params, m.Named)
        if self.cut:
            raise RejectedError(Code.UNREACHABLE, "node 'c1' is offline")
        return m.VolumeInfo(
            name=params.name,
            node=node,
            size_bytes=64 << 20,
            allocated_bytes=0,
            access=m.AccessInfo.READ_WRITE,
            consistent=True,
            healthy=True,
            generation="",
            pairs=[],
            target=self._address.iqn,
            portals=[self._address.portal],
            lun=self._address.lun,
        )


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()


class Bench:
    """Host 1 with one data set, a database on it."""

    def __init__(self, root: Path, runtime: Path, address: LunAddress, blocking: Blocking) -> None:
        self.mountpoint = runtime / "mnt"
        hook = root / "hook"
        hook.write_text(HOOK)
        hook.chmod(0o755)
        database = {
            "kind": "hook",
            "path": "store",
            "command": [str(hook)],
            "processes": ["sleep"],
            "recover_timeout_s": 10,
            "stop_timeout_s": 5,
        }
        config = DataSetConfig.model_validate(
            {
                **DATA_SET.model_dump(exclude_unset=True),
                "part": "host1",
                "mountpoint": self.mountpoint,
                "database": [database],
            }
        )
        self.attacher = FaultyAttacher(runtime / "attach")
        self.primary = Primary(address)
        volumes = HostVolumes(self.attacher, runtime)
        self.databases = DatabaseKeeper(
            [config], RecordStore(root / "databases"), blocking, _Clock()
        )
        self.keeper = FirstVolumeKeeper(
            [config], volumes, self.databases, RecordStore(root / "first"), blocking, self.primary
        )

    async def open(self) -> None:
        """Mounted, the database running."""
        await self.keeper.start()
        await self.until(lambda: find_mount(self.mountpoint) is not None)
        (self.mountpoint / "store").touch()
        await self.databases.recover("ds", "start", check=True)
        assert await self.recovered() is S.GOOD

    async def recovered(self) -> S:
        """How the database is once nothing is done about it any more."""
        await self.until(lambda: not self.databases.show("ds").running)
        return self.databases.show("ds").databases[0].state

    async def until(self, reached: object) -> None:
        """Wait for a condition."""
        assert callable(reached)
        async with asyncio.timeout(30):
            while not reached():  # noqa: ASYNC110 - nobody tells of a mount
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        """All gone."""
        self.attacher.faults.clear()
        self.primary.cut = False
        await self.databases.stop()
        await self.keeper.reclaim("ds", JOB)
        await self.databases.stop_all("ds", "end", force=True)
        await self.keeper.stop()
        assert find_mount(self.mountpoint) is None


@pytest.fixture
async def bench(tmp_path: Path, runtime: Path, target: Target) -> AsyncIterator[Bench]:
    blocking = Blocking()
    bench = Bench(tmp_path, runtime, target.serve(make_image(tmp_path / "image", "ext4")), blocking)
    await bench.open()
    yield bench
    await bench.close()
    blocking.close()


async def test_what_can_not_be_detached_is_mounted_again(bench: Bench) -> None:
    bench.attacher.faults = [ToolError("iscsiadm failed (7): no transport")]
    with pytest.raises(ToolError, match="no transport"):
        await bench.keeper.release("ds", JOB, force=False)
    assert await bench.recovered() is S.STARTED
    shown = await bench.keeper.show("ds")
    assert (shown.mounted, shown.released_for) == (True, "")
    shown, _ = await bench.keeper.release("ds", JOB, force=False)
    assert (shown.mounted, shown.released_for) == (False, JOB)


async def test_what_can_not_be_mounted_again_is_once_it_can_be(bench: Bench) -> None:
    bench.attacher.faults = [ToolError("iscsiadm failed (7): no transport")]
    bench.primary.cut = True
    with pytest.raises(ToolError, match="no transport"):
        await bench.keeper.release("ds", JOB, force=False)
    shown = await bench.keeper.show("ds")
    assert (shown.mounted, shown.released_for) == (False, "")
    assert bench.databases.show("ds").running, "it has nothing to start from yet"
    bench.primary.cut = False
    assert await bench.recovered() is S.STARTED
    shown = await bench.keeper.show("ds")
    assert (shown.mounted, shown.released_for) == (True, "")


async def test_what_is_given_back_is_mounted_whatever_becomes_of_the_job(bench: Bench) -> None:
    await bench.keeper.release("ds", JOB, force=False)
    bench.primary.cut = True
    for _ in range(2):
        with pytest.raises(RejectedError, match="offline") as refused:
            await bench.keeper.reclaim("ds", JOB)
        assert refused.value.code is Code.NO_PEER, "host 1 did answer: asking again is anew"
    assert (await bench.keeper.show("ds")).released_for == "", "another job may have it"
    bench.primary.cut = False
    await bench.until(lambda: find_mount(bench.mountpoint) is not None)
    shown, changed = await bench.keeper.reclaim("ds", JOB)
    assert (shown.mounted, shown.released_for, changed) == (True, "", False)


async def test_where_writes_are_lost_nothing_is_mounted_before_someone_has_looked(
    bench: Bench,
) -> None:
    bench.attacher.faults = [UnflushedError("sda", "Input/output error")]
    with pytest.raises(FinalError, match="has stopped: flushing sda failed") as caught:
        await bench.keeper.release("ds", JOB, force=False)
    assert "systemctl restart trilun-agent@h1" in caught.value.next_step
    shown = await bench.keeper.show("ds")
    assert (shown.mounted, shown.released_for) == (False, "")
    assert bench.databases.show("ds").running, "it is started once it is mounted"
    await bench.keeper.start()
    assert await bench.recovered() is S.STARTED
