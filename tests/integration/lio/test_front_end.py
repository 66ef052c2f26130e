"""A controller over the kernel's target, the kernel in memory: what it says of its exports."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.daemon import _shown
from controller.frontends import FrontEnd
from controller.lio import LioExporter, lio_settings
from controller.service.config import Endpoint
from controller.service.notify import Notifier
from targets.lio import target
from targets.lio.target import LioTarget
from tests.rig import Running, eventually, start_node
from tests.unit.targets.lio.machine import InMemoryMachine

SETTINGS = lio_settings("a", [Endpoint("127.0.0.1", 3299)], None)
TARGET = "iscsi/iqn.2026-11.io.trilun:a"


class Kernel:
    """A node whose exporter is the kernel's, in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machine = InMemoryMachine()
        self.target = LioTarget(SETTINGS, lambda: 1.0, self.machine)
        self.exporter = LioExporter(self.target, SETTINGS)
        self.front_end = FrontEnd("lio", self.exporter)

    def refuse(self, part: str, number: int) -> None:
        error = OSError(number, os.strerror(number))
        self.machine.refuse = lambda what: error if part in what else None

    def allow(self) -> None:
        self.machine.refuse = lambda _what: None

    async def start(self) -> Running:
        await self.target.start()
        node = await start_node(self.directory, "a", [], front_end=self.exporter)
        await self.front_end.settle()
        return node

    async def lose_portals(self, name: str) -> None:
        np = self.machine.tree.root.find(f"{TARGET}.{name}/tpgt_1/np")
        assert np is not None
        np.folders.clear()
        await self.target.next_pass()

    def files(self) -> set[str]:
        return {path.name for path in self.directory.rglob("*")}


@pytest.fixture
async def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kernel]:
    monkeypatch.setattr(target, "RETRY_S", 0.01)
    made = Kernel(tmp_path / "a")
    yield made
    await made.front_end.close()


async def test_a_volume_that_the_kernel_refuses_is_not_made(kernel: Kernel) -> None:
    node = await kernel.start()
    await node.do("volume.create", m.VolumeCreate(name="good", size_bytes=1 << 20))
    before = kernel.files()
    kernel.refuse(f"make {TARGET}.bad", errno.EINVAL)
    with pytest.raises(RejectedError, match="refuses the name") as refused:
        await node.do("volume.create", m.VolumeCreate(name="bad", size_bytes=1 << 20))
    assert refused.value.code is Code.IO_ERROR
    assert refused.value.next_step == "choose a plainer volume name"
    assert [each.record.name for each in node.node.volumes.all()] == ["good"]
    assert kernel.files() == before
    assert node.node.volume_info("good").trouble == ""
    # A view, too.
    kernel.refuse(f"make {TARGET}.look", errno.EINVAL)
    with pytest.raises(RejectedError, match="refuses the name"):
        await node.do("view.open", m.ViewOpen(volume="good", view="look"))
    assert node.volume("good").views == 0
    assert kernel.files() == before
    await node.stop()


async def test_a_volume_that_nobody_can_find_yet_says_so(kernel: Kernel) -> None:
    node = await kernel.start()
    kernel.refuse("/np/", errno.EADDRINUSE)
    made = await node.do("volume.create", m.VolumeCreate(name="v", size_bytes=1 << 20))
    assert "hosts can't find it yet: portal 127.0.0.1:3299: another program" in made.message
    assert isinstance(made.result, m.VolumeInfo)
    assert made.result.trouble.endswith("stop it, or change [target] listen")
    kernel.allow()
    assert await eventually(lambda: not node.node.volume_info("v").trouble)
    await node.stop()


async def test_a_service_is_ready_when_hosts_can_find_all_volumes(kernel: Kernel) -> None:
    node = await kernel.start()
    await node.do("volume.create", m.VolumeCreate(name="v", size_bytes=1 << 20))
    kernel.refuse("/np/", errno.EADDRINUSE)
    await kernel.lose_portals("v")
    address = str(kernel.directory / "notify")
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        waiting = asyncio.create_task(_shown(kernel.front_end, Notifier(address), stopping))
        said = (await loop.sock_recv(manager, 4096)).decode()
        assert said.startswith("STATUS=volumes can't be found by hosts yet: portal 127.0.0.1:3299")
        assert "\nEXTEND_TIMEOUT_USEC=" in said
        assert not waiting.done()
        kernel.allow()
        assert await waiting
        # A stop ends the wait.
        kernel.refuse("/np/", errno.EADDRINUSE)
        await kernel.lose_portals("v")
        waiting = asyncio.create_task(_shown(kernel.front_end, Notifier(address), stopping))
        await asyncio.sleep(0)
        stopping.set()
        assert not await waiting
    await node.stop()
