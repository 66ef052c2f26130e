"""The front end over a machine in memory: what it says, tries again, takes back and lets go."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from targets.lio import devices, target
from targets.lio.configfs import Kind, Operation
from targets.lio.passes import LioSettings
from targets.lio.target import LioError, LioTarget
from targets.lio.wanted import IQN_PREFIX, Ownership, Portal
from tests.unit.targets.lio.machine import InMemoryMachine
from tests.unit.targets.lio.rig import read_10
from tests.unit.targets.memory import MemoryLun

OWNER = Ownership(f"{IQN_PREFIX}n.", "trilun-n@")
PORTAL = Portal("127.0.0.1", 3299)
IQN = f"{IQN_PREFIX}n.v"
BACKSTORE = "core/user_747/trilun-n@v"
GROUP = f"iscsi/{IQN}/tpgt_1"


def refused(number: int = errno.EINVAL) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass
class World:
    machine: InMemoryMachine = field(default_factory=InMemoryMachine)
    lun: MemoryLun = field(default_factory=MemoryLun)

    def __post_init__(self) -> None:
        self.new_daemon()

    def new_daemon(self) -> None:
        self.target = LioTarget(LioSettings(OWNER, (PORTAL,)), lambda: 1.0, self.machine)

    def offer(self, name: str = "v", lun: MemoryLun | None = None) -> str:
        iqn = f"{IQN_PREFIX}n.{name}"
        self.target.add(iqn, f"trilun-n@{name}", f"trilun/{name}", lun or self.lun)
        return iqn

    async def up(self, *names: str) -> None:
        await self.target.start()
        for name in names or ("v",):
            self.offer(name)
        await self.target.settle()

    def send(self, name: str = "v") -> int:
        node = f"uio-trilun-n@{name}"
        cmd_id = self.machine.rings[node].send(read_10(0, 8), 4096)
        assert cmd_id is not None
        self.machine.open_nodes[node].announce()
        return cmd_id


@pytest.fixture
async def it(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(target, "RETRY_S", 0.01)
    monkeypatch.setattr(devices, "DRAIN_WITHIN_S", 0.05)
    made = World()
    yield made
    made.lun.release()
    if made.machine.hang is not None:
        made.machine.hang.set()
    await made.target.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - passes come by themselves
            await asyncio.sleep(0.002)


async def test_what_is_offered_is_found(it: World) -> None:
    await it.up()
    assert it.target.held_up == it.target.problems == ()
    assert it.target.trouble(IQN) == ""
    cmd_id = it.send()
    await until(lambda: cmd_id in it.machine.rings["uio-trilun-n@v"].answers)
    await it.target.remove(IQN, force=False)
    assert not it.machine.tree.root.folders["iscsi"].folders
    assert not it.machine.open_nodes


async def test_a_device_that_can_not_be_unblocked_is_not_found_and_tried_again(it: World) -> None:
    failing = True
    it.machine.blocked[BACKSTORE] = True  # as a clean stop leaves it
    it.machine.refuse = lambda what: refused(errno.EIO) if failing and "=0" in what else None
    await it.up()
    assert "can't be served" in it.target.trouble(IQN)
    assert it.target.held_up
    await it.target.next_pass()
    assert "can't be served" in it.target.trouble(IQN)
    failing = False
    await until(lambda: not it.machine.blocked[BACKSTORE])
    await it.target.next_pass()
    assert it.target.held_up == ()
    assert it.target.trouble(IQN) == ""


async def test_a_device_that_somebody_blocks_is_let_go_again(it: World) -> None:
    await it.up()
    it.machine.blocked[BACKSTORE] = True
    await it.target.next_pass()
    assert not it.machine.blocked[BACKSTORE]


async def test_a_portal_that_is_refused_is_why_nobody_finds_it(it: World) -> None:
    taken = True
    it.machine.refuse = lambda what: (
        refused(errno.EADDRINUSE) if taken and what.startswith(f"make {GROUP}/np/") else None
    )
    await it.up()
    sentence = "portal 127.0.0.1:3299: another program listens there"
    assert it.target.held_up[0].startswith(sentence)
    assert it.target.trouble(IQN).startswith(sentence)
    await it.target.ready(IQN)  # it is no fault of this one's: it stays offered
    taken = False
    await until(lambda: it.target.held_up == ())
    assert it.machine.tree.root.find(GROUP).files["enable"] == "1"  # type: ignore[union-attr]


async def test_without_its_address_everything_else_is_ready(it: World) -> None:
    await it.target.start()
    it.machine.watch.present = frozenset()
    it.offer()
    await it.target.settle()
    assert it.target.held_up == ()
    assert "has no such address now" in it.target.trouble(IQN)
    it.machine.watch.present = frozenset({PORTAL.host})
    it.machine.addresses_changed()
    await until(lambda: not it.target.trouble(IQN))


async def test_a_name_that_is_refused_is_said_of_this_one_alone(it: World) -> None:
    await it.up("v")
    bad = f"{IQN_PREFIX}n.bad"
    it.machine.refuse = lambda what: refused() if what == f"make iscsi/{bad}" else None
    it.offer("bad")
    with pytest.raises(LioError, match=r"refuses the name .*; choose a plainer"):
        await it.target.ready(bad)
    assert it.target.trouble(IQN) == ""
    await it.target.remove(bad, force=True)
    await it.target.next_pass()
    assert it.target.held_up == it.target.problems == ()
    assert "trilun-n@bad" not in it.machine.tree.root.folders["core"].folders["user_747"].folders


async def test_a_call_that_hangs_holds_up_what_is_offered(
    it: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.lio.passes.STEP_WITHIN_S", 0.05)
    it.machine.hang = threading.Event()
    await it.up()
    assert "has not come back" in it.target.held_up[0]
    assert "has not come back" in it.target.trouble(IQN)
    it.machine.hang.set()
    await until(lambda: it.target.held_up == ())


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_stop_ends_whatever_disks_and_kernel_do(
    it: World, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(target, "BLOCK_WITHIN_S", 0.05)
    names = [f"v{number}" for number in range(20)]
    await it.up(*names)
    it.lun.held = []
    for name in names:
        it.send(name)
    await until(lambda: len(it.lun.held or ()) == len(names))
    if hangs:
        it.machine.hang = threading.Event()
    async with asyncio.timeout(10):
        await it.target.rest()
        await it.target.close()
    assert hangs or all(it.machine.blocked.values())
    # Something may still write into the mappings: they are kept.
    assert len(it.machine.open_nodes) == len(names)


async def test_what_a_stop_can_wait_for_is_answered(it: World) -> None:
    await it.up()
    it.lun.held = []
    cmd_id = it.send()
    await until(lambda: it.lun.held)
    resting = asyncio.create_task(it.target.rest())
    await until(lambda: it.machine.blocked.get(BACKSTORE))
    it.lun.release()
    await resting
    assert cmd_id in it.machine.rings["uio-trilun-n@v"].answers
    assert not it.machine.open_nodes
    it.new_daemon()
    await it.up()
    assert not it.machine.blocked[BACKSTORE]
    assert it.target.trouble(IQN) == ""


async def test_one_lost_device_with_a_slow_disk_holds_up_no_other(it: World) -> None:
    await it.up()
    slow = MemoryLun()
    slow.held = []
    it.offer("slow", slow)
    await it.target.next_pass()
    it.send("slow")
    await until(lambda: slow.held)
    it.machine.open_nodes["uio-trilun-n@slow"].gone = True
    it.machine.heard(None)
    await until(lambda: any("still under way" in each for each in it.target.problems))
    it.offer("new")
    await until(lambda: not it.target.trouble(f"{IQN_PREFIX}n.new"))
    slow.release()
    await until(lambda: not it.target.problems)
    assert it.machine.resets == ["core/user_747/trilun-n@slow"]
    cmd_id = it.send("slow")
    await until(lambda: cmd_id in it.machine.rings["uio-trilun-n@slow"].answers)


async def test_what_others_show_is_not_touched(it: World) -> None:
    """Not even to free what waits there: its hosts would hear BUSY for it."""
    await it.up()
    await it.target.rest()
    it.machine.blocked.clear()
    tree, foreign = it.machine.tree, "iscsi/iqn.2003-01.org.other:x/tpgt_1"
    for operation in (
        Operation(Kind.MAKE, foreign.rpartition("/")[0]),
        Operation(Kind.MAKE, foreign),
        Operation(Kind.MAKE, f"{foreign}/lun/lun_0"),
        Operation(Kind.LINK, f"{foreign}/lun/lun_0/l", BACKSTORE),
    ):
        tree.do(operation)
    it.new_daemon()
    await it.target.start()
    await it.target.settle()
    assert any("which isn't ours" in each for each in it.target.problems)
    assert it.machine.resets == []
    assert not it.machine.blocked.get(BACKSTORE)


async def test_a_setting_that_can_not_be_changed_is_named(it: World) -> None:
    await it.up()
    await it.target.rest()
    device = it.machine.tree.root.find(f"{BACKSTORE}/attrib")
    assert device is not None
    device.files["cmd_time_out"] = "40"  # an earlier version's
    it.new_daemon()
    await it.up()
    assert it.target.held_up == ()
    assert any(
        "cmd_time_out 40 instead of 68" in each and "--node n" in each
        for each in it.target.problems
    )
