"""Which initiators may log in to a volume: kept over a restart, refused where it hurts a host."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.catalogue import FILE, LAYOUT, Catalogue, Contents
from controller.volume.file import DirectoryDisk
from controller.volume.offload import ThreadOffload
from controller.volume.slots import SlotRing
from controller.volume.store import StoreError, StoreFault, finished
from tests.integration.pairs.states import refused
from tests.rig import Running, eventually, start_node

ONE, TWO = "iqn.1993-08.org.debian:01:one", "iqn.1993-08.org.debian:01:two"


def allow(*names: str, force: bool = False, volume: str = "v") -> m.VolumeAllow:
    return m.VolumeAllow(name=volume, initiators=list(names), force=force)


def create(*names: str, volume: str = "v") -> m.VolumeCreate:
    return m.VolumeCreate(name=volume, size_bytes=1 << 20, initiators=list(names))


def listed(node: Running, volume: str = "v") -> tuple[list[str], list[str]]:
    """What operators see, and what the front end has."""
    info = node.node.volume_info(volume)
    assert info.target is not None
    return info.initiators, node.exporter.allowed[info.target]


def published(node: Running) -> list[str]:
    info = node.published.states["volume", "v"]
    assert isinstance(info, m.VolumeInfo)
    return info.initiators


async def test_a_list_outlives_a_power_loss(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [], crashes=True)
    for name in ("v", "open"):
        await node.do("volume.create", create(volume=name))
    assert listed(node) == ([], [])
    outcome = await node.do("volume.allow", allow(TWO, ONE.upper(), TWO))
    assert outcome.verdict is Verdict.ACCEPTED
    assert outcome.message == f"{ONE}, {TWO} may log in to volume 'v'"
    assert listed(node) == ([ONE, TWO], [ONE, TWO])
    await eventually(lambda: published(node) == [ONE, TWO])
    assert (await node.do("volume.allow", allow(ONE, TWO))).verdict is Verdict.NO_OP
    await node.crash(random.Random(1))
    node = await start_node(tmp_path, "n", [])
    assert listed(node) == ([ONE, TWO], [ONE, TWO])
    assert listed(node, "open") == ([], [])
    outcome = await node.do("volume.allow", allow())
    assert outcome.message == "every initiator may log in to volume 'v'"
    await node.stop()
    node = await start_node(tmp_path, "n", [])
    assert listed(node) == ([], [])
    await node.stop()


async def test_a_volume_is_made_with_its_list(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create(ONE))
    assert listed(node) == ([ONE], [ONE])
    assert (await node.do("volume.create", create(ONE))).verdict is Verdict.NO_OP
    assert (await node.do("volume.create", create())).verdict is Verdict.NO_OP
    error = await refused(node, "volume.create", create(TWO))
    assert error.code is Code.EXISTS
    assert "trilun volume allow v" in error.next_step
    error = await refused(node, "volume.create", create("host1", volume="w"))
    assert (error.code, error.message) == (Code.BAD_REQUEST, "not an iSCSI name: 'host1'")
    assert [each.record.name for each in node.node.volumes.all()] == ["v"]
    await node.stop()


async def test_who_is_logged_in_is_not_left_out_unasked(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create())
    node.logged_in("v", ONE, TWO)
    error = await refused(node, "volume.allow", allow(ONE))
    assert error.code is Code.IN_USE
    assert error.message == f"{TWO} is logged in to 'v', and its session would end"
    assert "--force" in error.next_step
    assert listed(node) == ([], [])
    await node.do("volume.allow", allow(ONE, TWO))
    assert (await refused(node, "volume.allow", allow(TWO))).message.startswith(ONE)
    await node.do("volume.allow", allow(TWO, force=True))
    assert listed(node) == ([TWO], [TWO])
    assert [each.initiator for each in node.node.volume_info("v").sessions] == [TWO]
    await node.do("volume.allow", allow())
    await node.stop()


async def test_a_view_has_the_list_that_its_volume_had(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create(ONE))
    await node.do("view.open", m.ViewOpen(volume="v", view="look"))
    assert listed(node, "look") == ([ONE], [ONE])
    error = await refused(node, "volume.allow", allow(TWO, volume="look"))
    assert error.code is Code.BAD_REQUEST
    assert "'v'" in error.next_step
    await node.do("volume.allow", allow(ONE, TWO))
    assert listed(node, "look") == ([ONE], [ONE])
    await node.do("view.close", m.Named(name="look"))
    await node.do("view.open", m.ViewOpen(volume="v", view="look"))
    assert listed(node, "look") == ([ONE, TWO], [ONE, TWO])
    await node.stop()


async def test_what_is_no_list(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create())
    for bad in ("host1", "iqn.2026-11.a b", "iqn.2026-11.a/../b"):
        assert (await refused(node, "volume.allow", allow(ONE, bad))).code is Code.BAD_REQUEST
    with pytest.raises(ValueError, match="at most 32"):
        allow(*(f"{ONE}{number}" for number in range(33)))
    await node.do("volume.allow", allow(*(f"{ONE}{number}" for number in range(32))))
    assert (await refused(node, "volume.allow", allow(ONE, volume="w"))).code is Code.NOT_FOUND
    await node.stop()


async def test_a_catalogue_that_fails_or_is_full_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create(ONE))

    async def fail(_catalogue: Catalogue) -> None:
        raise StoreError(StoreFault.IO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr(Catalogue, "commit", fail)
        assert (await refused(node, "volume.allow", allow(TWO))).code is Code.IO_ERROR
    with monkeypatch.context() as full:
        full.setattr(Catalogue, "has_room", lambda _catalogue: False)
        assert (await refused(node, "volume.allow", allow(ONE, TWO))).code is Code.NO_SPACE
    assert listed(node) == ([ONE], [ONE])
    await node.stop()


async def test_a_front_end_that_fails_leaves_the_list_in_the_catalogue(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create())

    async def fail(iqn: str, initiators: Sequence[str]) -> None:
        raise RejectedError(Code.IO_ERROR, "not yet")

    node.exporter.allow = fail  # type: ignore[method-assign]
    assert (await refused(node, "volume.allow", allow(ONE))).message == "not yet"
    await node.stop()
    node = await start_node(tmp_path, "n", [])
    assert listed(node) == ([ONE], [ONE])
    await node.stop()


async def test_a_catalogue_from_before_there_were_lists(tmp_path: Path) -> None:
    node = await start_node(tmp_path, "n", [])
    await node.do("volume.create", create(ONE))
    await node.stop()
    offload = ThreadOffload(asyncio.get_running_loop())
    disk = DirectoryDisk(tmp_path / "meta", offload.lane)
    store = disk.open(FILE, LAYOUT.ring_bytes, create=False)
    ring = SlotRing(store, LAYOUT)
    raw = await ring.load()
    assert raw is not None
    contents = json.loads(raw)
    assert contents["volumes"][0].pop("initiators") == [ONE]
    Contents.model_validate(contents)
    await finished(lambda done: ring.commit(json.dumps(contents).encode(), done))
    ring.close()
    await asyncio.to_thread(offload.close)
    node = await start_node(tmp_path, "n", [])
    assert listed(node) == ([], [])
    await node.stop()
