"""A controller with the embedded target and initiators that it did not write: who gets in."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.embedded import EmbeddedExporter
from targets.iscsi.chap import ChapCredentials
from targets.iscsi.server import IscsiServer, Limits
from tests.integration.pairs.states import refused
from tests.rig import Running, eventually, start_node

pytestmark = pytest.mark.tools

HOST1 = "iqn.2026-11.io.trilun:host.host1"
HOST2 = "iqn.2026-11.io.trilun:host.host2"
SIZE = 1 << 20


@dataclass
class Array:
    """A node whose volumes real initiators can reach."""

    node: Running
    exporter: EmbeddedExporter

    def info(self, name: str = "v") -> m.VolumeInfo:
        return self.node.node.volume_info(name)

    async def allow(self, *names: str, force: bool = False) -> None:
        asked = m.VolumeAllow(name="v", initiators=list(names), force=force)
        await self.node.do("volume.allow", asked)

    async def qemu(self, initiator: str, command: str, name: str = "v") -> tuple[int, str]:
        """One command of qemu-io as an initiator; its exit code and what it said."""
        image = (
            f"driver=raw,file.driver=iscsi,file.transport=tcp,file.lun=0,"
            f"file.portal={self.exporter.portals[0]},file.target={self.info(name).target},"
            f"file.initiator-name={initiator}"
        )
        return await run("qemu-io", "--image-opts", image, "-c", command)

    async def found_by(self, initiator: str) -> str:
        """What SendTargets tells an initiator."""
        portal = f"iscsi://{self.exporter.portals[0]}"
        code, said = await run("iscsi-ls", "-i", initiator, portal)
        assert code == 0, said
        return said


async def run(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()


async def start(directory: Path, chap: ChapCredentials | None = None) -> Array:
    server = IscsiServer(clock=lambda: 1.0, random_bytes=os.urandom, limits=Limits(logout_s=0.2))
    exporter = EmbeddedExporter(server, chap)
    await exporter.listen("127.0.0.1", 0)
    node = await start_node(directory, "n", [], front_end=exporter)
    return Array(node, exporter)


async def stop(array: Array) -> None:
    await array.node.stop()
    await array.exporter.close()


@pytest.fixture
async def array(tmp_path: Path) -> AsyncIterator[Array]:
    missing = [each for each in ("qemu-io", "iscsi-ls") if shutil.which(each) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (libiscsi-bin, qemu-utils, qemu-block-extra)")
    made = await start(tmp_path)
    await made.node.do(
        "volume.create", m.VolumeCreate(name="v", size_bytes=SIZE, initiators=[HOST1])
    )
    await made.node.do("volume.create", m.VolumeCreate(name="open", size_bytes=SIZE))
    yield made
    await stop(made)


async def test_a_host_of_the_list_gets_in_and_another_hears_why_not(array: Array) -> None:
    code, said = await array.qemu(HOST1, "write -P 7 0 64k")
    assert (code, "failed" in said) == (0, False), said
    code, said = await array.qemu(HOST2, "read 0 4k")
    assert code == 1
    assert "Authorization failure(514)" in said, said  # login status 0202h
    for initiator in (HOST1, HOST2):
        assert (await array.qemu(initiator, "read -P 0 0 4k", "open"))[0] == 0
    await array.allow(HOST1, HOST2)
    code, said = await array.qemu(HOST2, "read -P 7 0 64k")
    assert (code, "failed" in said) == (0, False), said


async def test_a_target_shows_itself_to_hosts_of_its_list(array: Array) -> None:
    of_v, of_open = str(array.info("v").target), str(array.info("open").target)
    said = await array.found_by(HOST1)
    assert of_v in said
    assert of_open in said
    said = await array.found_by(HOST2)
    assert of_v not in said
    assert of_open in said


async def test_a_host_that_is_left_out_by_force_is_gone(array: Array) -> None:
    """Its session ends, and it hears at its next login that it may not."""
    await array.allow(HOST1, HOST2)
    both = [asyncio.create_task(array.qemu(each, "sleep 60000")) for each in (HOST1, HOST2)]
    await eventually(lambda: len(array.info().sessions) == 2)
    asked = m.VolumeAllow(name="v", initiators=[HOST1])
    error = await refused(array.node, "volume.allow", asked)
    assert error.message == f"{HOST2} is logged in to 'v', and its session would end"
    assert len(array.info().sessions) == 2
    await array.allow(HOST1, force=True)
    assert [each.initiator for each in array.info().sessions] == [HOST1]
    assert "Authorization failure(514)" in (await array.qemu(HOST2, "read 0 4k"))[1]
    for each in both:
        each.cancel()
    await asyncio.gather(*both, return_exceptions=True)
