"""Which initiators the kernel lets in: plans from offers, and what happens to sessions."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from targets.lio import passes, target
from targets.lio.configfs import Folder
from targets.lio.passes import LioSettings
from targets.lio.plan import plan
from targets.lio.target import LioError, LioTarget, TargetInUseError
from targets.lio.wanted import IQN_PREFIX, Acl, Chap, Ownership, Portal, Wanted, WantedError
from tests.unit.targets.lio.machine import InMemoryMachine
from tests.unit.targets.lio.offers import (
    CHAP,
    HOST,
    MUTUAL,
    OTHER_HOST,
    carry_out,
    chap_of,
    fits,
    others,
    simple,
)
from tests.unit.targets.lio.test_sessions import info
from tests.unit.targets.memory import MemoryLun

pytestmark = pytest.mark.plain

OWNER = Ownership(f"{IQN_PREFIX}n.", "trilun-n@")
IQN = f"{IQN_PREFIX}n.v"
GROUP = f"iscsi/{IQN}/tpgt_1"
SIMPLE_GROUP = f"iscsi/{IQN_PREFIX}n.v1/tpgt_1"


def hosts(*names: str, chap: Chap | None = None) -> Wanted:
    """One volume for these hosts."""
    if not names:
        return simple(chap=chap)
    return simple(acls=tuple(Acl(each, {0: 0}, chap=chap) for each in names))


def test_a_list_that_changes_touches_nobody_who_stays() -> None:
    tree = others()
    carry_out(tree, hosts(HOST))
    made = carry_out(tree, hosts(HOST, OTHER_HOST))
    assert all(
        each.path.startswith(f"{SIMPLE_GROUP}/acls/{OTHER_HOST}") for each in made.operations
    )
    fits(tree, hosts(HOST, OTHER_HOST), made.obstacles)
    made = carry_out(tree, hosts(HOST))
    assert all(
        each.path.startswith(f"{SIMPLE_GROUP}/acls/{OTHER_HOST}") for each in made.operations
    )
    fits(tree, hosts(HOST), made.obstacles)


def test_a_list_is_opened_under_its_hosts() -> None:
    """An ACL that is removed ends its initiator's session: those that are there stay."""
    tree = others()
    carry_out(tree, hosts(HOST, OTHER_HOST, chap=CHAP))
    made = carry_out(tree, hosts(chap=MUTUAL))
    assert not [each for each in made.operations if each.kind.name in {"REMOVE", "UNLINK"}]
    assert "enable" not in {each.path.rpartition("/")[2] for each in made.operations}
    fits(tree, hosts(chap=MUTUAL), made.obstacles)
    acls = tree.root.find(f"{SIMPLE_GROUP}/acls")
    assert acls is not None
    assert sorted(acls.folders) == [HOST, OTHER_HOST]
    # They are asked for what everybody is asked for.
    assert chap_of(acls.folders[HOST])[2:] == ("target", "secret-of-target")
    carry_out(tree, Wanted())
    assert not (tree.root.find("iscsi") or Folder()).find(f"{IQN_PREFIX}n.v1")


def test_a_group_that_was_open_is_made_anew_for_a_list() -> None:
    """By ACLs that it doesn't show, the kernel would let in whoever was there before."""
    for before in (hosts(), hosts(chap=CHAP)):
        tree = others()
        carry_out(tree, before)
        made = carry_out(tree, hosts(HOST))
        paths = [f"{each.kind.value} {each.path}" for each in made.operations]
        gone, back = paths.index(f"remove {SIMPLE_GROUP}"), paths.index(f"make {SIMPLE_GROUP}")
        assert gone < back < paths.index(f"make {SIMPLE_GROUP}/np/10.0.0.1:3260")
        assert not [each for each in made.operations if each.path.startswith("core/")]
        fits(tree, hosts(HOST), made.obstacles)


def test_only_those_of_the_list_find_the_target() -> None:
    tree = others()
    for goal, shown in ((hosts(HOST), "0"), (hosts(), "1"), (hosts(HOST), "0")):
        carry_out(tree, goal)
        attributes = tree.root.find(f"{SIMPLE_GROUP}/attrib")
        assert attributes is not None
        assert attributes.files["demo_mode_discovery"] == shown
        assert not plan(goal, tree.root).operations


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> InMemoryMachine:
    monkeypatch.setattr(target, "RETRY_S", 0.01)
    return InMemoryMachine()


async def started(
    machine: InMemoryMachine, *initiators: str, chap: Chap | None = None
) -> LioTarget:
    settings = LioSettings(OWNER, (Portal("127.0.0.1", 3299),), chap)
    made = LioTarget(settings, lambda: 1.0, machine)
    await made.start()
    made.add(IQN, "trilun-n@v", "trilun/v", MemoryLun(), initiators)
    await made.settle()
    return made


def acls(machine: InMemoryMachine) -> dict[str, tuple[str, ...]]:
    found = machine.tree.root.find(f"{GROUP}/acls")
    assert found is not None
    return {name: chap_of(each) for name, each in found.folders.items()}


async def test_each_of_a_list_has_an_acl_with_its_credentials(machine: InMemoryMachine) -> None:
    it = await started(machine, HOST, OTHER_HOST, chap=CHAP)
    assert acls(machine) == dict.fromkeys((HOST, OTHER_HOST), (CHAP.user, CHAP.password, "", ""))
    group = machine.tree.root.find(GROUP)
    assert group is not None
    assert chap_of(group) == ("", "", "", "")
    assert group.folders["attrib"].files["generate_node_acls"] == "0"
    mapped = machine.tree.root.find(f"{GROUP}/acls/{HOST}/lun_0")
    assert mapped is not None
    assert list(mapped.links.values()) == [f"{GROUP}/lun/lun_0"]
    assert mapped.files["write_protect"] == "0"
    await it.close()


async def test_sessions_of_a_list_have_addresses(machine: InMemoryMachine) -> None:
    it = await started(machine, HOST, OTHER_HOST)
    assert it.sessions(IQN) == []
    machine.infos[HOST] = info(HOST, "192.0.2.7", "2001:db8::7")
    (seen,) = it.sessions(IQN)
    assert (seen.initiator, seen.address, seen.since_s) == (HOST, "192.0.2.7, 2001:db8::7", 1.0)
    with pytest.raises(TargetInUseError):
        await it.remove(IQN, force=False)
    await it.close()


async def test_who_would_be_cut_off(machine: InMemoryMachine) -> None:
    it = await started(machine, HOST, OTHER_HOST)
    machine.infos = {HOST: info(HOST, "192.0.2.7"), OTHER_HOST: info(OTHER_HOST, "192.0.2.8")}

    def by(*names: str) -> list[str]:
        return sorted(each.initiator for each in it.cut_off_by(IQN, names))

    assert by(HOST, OTHER_HOST) == by() == []
    assert by(HOST) == [OTHER_HOST]
    await it.allow(IQN, (HOST,))
    assert list(acls(machine)) == [HOST]
    await it.allow(IQN, ())
    assert list(acls(machine)) == [HOST]
    # From everybody to some the portal group goes, and all that are there with it.
    machine.dynamic = f"{OTHER_HOST}\n"
    assert by(HOST, OTHER_HOST) == sorted((HOST, OTHER_HOST))
    assert by() == []
    await it.allow(IQN, (OTHER_HOST,))
    assert list(acls(machine)) == [OTHER_HOST]
    assert it.cut_off_by("iqn.2026-11.io.trilun:n.none", (HOST,)) == []
    await it.allow("iqn.2026-11.io.trilun:n.none", (HOST,))
    await it.close()


async def test_nobody_looks_into_a_folder_that_is_being_removed(machine: InMemoryMachine) -> None:
    """Who does waits for that, and with it every host."""
    it = await started(machine, HOST, OTHER_HOST)
    machine.infos[HOST] = info(HOST, "192.0.2.7")
    it.sessions(IQN)
    seen: list[list[str]] = []
    machine.infos = {}

    def look(what: str) -> OSError | None:
        if what == f"remove {GROUP}/acls/{OTHER_HOST}":
            seen.append([each.initiator for each in it.sessions(IQN)])
        return None

    machine.refuse = look
    await it.allow(IQN, (HOST,))
    assert seen == [[HOST]]
    assert it.sessions(IQN) == []
    await it.close()


async def test_a_removal_that_never_ends_keeps_nobody_waiting(
    machine: InMemoryMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "STEP_WITHIN_S", 0.05)
    it = await started(machine, HOST, OTHER_HOST)
    machine.infos[HOST] = info(HOST, "192.0.2.7")
    it.sessions(IQN)
    machine.infos = {}
    machine.hang = threading.Event()
    with pytest.raises(LioError, match="unlink"):
        await it.allow(IQN, (HOST,))
    await it.next_pass()
    assert [each.initiator for each in it.sessions(IQN)] == [HOST], "it looked"
    machine.hang.set()
    async with asyncio.timeout(10):
        while it.sessions(IQN):
            await it.next_pass()
    assert list(acls(machine)) == [HOST]
    await it.close()


async def test_a_list_that_the_kernel_does_not_take_is_said_and_tried_again(
    machine: InMemoryMachine,
) -> None:
    it = await started(machine, HOST)
    no = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    machine.refuse = lambda what: no if OTHER_HOST in what else None
    with pytest.raises(LioError, match="no memory"):
        await it.allow(IQN, (HOST, OTHER_HOST))
    machine.refuse = lambda _what: None
    await it.next_pass()
    assert sorted(acls(machine)) == sorted((HOST, OTHER_HOST))
    with pytest.raises(WantedError):
        await it.allow(IQN, ("not a name",))
    await it.next_pass()
    assert sorted(acls(machine)) == sorted((HOST, OTHER_HOST))
    await it.close()
