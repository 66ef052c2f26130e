"""Which hosts may log in to a volume of the kernel's target, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs.host import Host
from tests.lab.controller import IQN, UNIT, Controller
from tests.lab.lio import (
    TARGETS,
    UNIT_ATTENTION,
    Load,
    heard,
    initiator,
    log_in_as,
    log_out,
    until,
)

pytestmark = pytest.mark.lab

PORTAL = "127.0.0.1"
ONE, TWO = initiator("one"), initiator("two")
REFUSED = 24
"""ISCSI_ERR_LOGIN_AUTH_FAILED of open-iscsi: login status 02/01 or 02/02."""
NOTHING_FOUND = 21
SECRET = "secret-of-hosts"
CHAP = '[target.chap]\nuser = "hosts"\nsecret_file = "credential:chap"\n'


@pytest.fixture
def controller(request: pytest.FixtureRequest, solo: Host) -> Iterator[Controller]:
    more, secrets = getattr(request, "param", ("", {}))
    made = Controller(solo, more, secrets=secrets)
    made.install()
    made.start()
    yield made
    print(made.log())
    log_out(solo)
    made.trilun("volume", "delete", "ctl1/v", check=False)
    made.remove()


def iscsiadm(host: Host, *arguments: str) -> int:
    return host.run("iscsiadm", *arguments, check=False).code


def node(host: Host, name: str, *action: str) -> int:
    """Something with one initiator's record of the target.

    Without the portal group's tag there would be one record for all.
    """
    where = ("-T", IQN, "-p", f"{PORTAL}:3260,1", "-I", name)
    return iscsiadm(host, "-m", "node", *where, *action)


def know(host: Host, name: str) -> None:
    """Make an initiator and its record of the target, found or not."""
    host.shell(
        f"iscsiadm -m iface -I {name} -o new || true\n"
        f"iscsiadm -m iface -I {name} -o update -n iface.initiatorname -v {initiator(name)}\n"
        f"iscsiadm -m iface -I {name} -o update -n iface.transport_name -v tcp\n"
    )
    node(host, name, "-o", "new")


def meet_a_closed_door(host: Host, name: str) -> None:
    """Neither does it find the target, nor may it log in."""
    know(host, name)
    assert iscsiadm(host, "-m", "discovery", "-t", "st", "-p", PORTAL, "-I", name) == NOTHING_FOUND
    know(host, name)  # a discovery that finds nothing takes the record away
    assert node(host, name, "-l") == REFUSED


def tell_secret(host: Host, name: str, secret: str) -> None:
    settings = {"authmethod": "CHAP", "username": "hosts", "password": secret}
    for key, value in settings.items():
        update = ("-o", "update", "-n", f"node.session.auth.{key}", "-v", value)
        assert node(host, name, *update) == 0


def listed(controller: Controller) -> dict[str, str]:
    info = controller.trilun("volume", "show", "ctl1/v")
    return {each["initiator"]: each["address"] for each in info["sessions"]}


def test_hosts_of_a_list_log_in_and_others_do_not(controller: Controller) -> None:
    """The list changes, and everybody is let in at last, under a host that writes all the time."""
    host = controller.host
    controller.trilun("volume", "create", "ctl1/v", str(64 << 20), "--allow", ONE)
    (disk,) = log_in_as(host, "one", iqn=IQN)
    assert listed(controller) == {ONE: PORTAL}
    meet_a_closed_door(host, "two")
    host.run("dmesg", "-C")
    load = Load(host, disk)
    load.start()

    controller.trilun("volume", "allow", "ctl1/v", ONE, TWO)
    load.goes_on()
    (other,) = log_in_as(host, "two", iqn=IQN)
    host.shell(f"dd if=/dev/zero of={other} bs=4k count=1 seek=12400 oflag=direct status=none")
    assert listed(controller) == {ONE: PORTAL, TWO: PORTAL}

    before = host.shell(f"find {TARGETS}/iscsi").text
    refused = controller.trilun("volume", "allow", "ctl1/v", ONE, check=False)
    assert TWO in refused["error"]["message"]
    assert "--force" in refused["error"]["next_step"]
    assert host.shell(f"find {TARGETS}/iscsi").text == before
    controller.trilun("volume", "allow", "ctl1/v", ONE, "--force")
    assert listed(controller) == {ONE: PORTAL}
    load.goes_on()
    node(host, "two", "-u")
    meet_a_closed_door(host, "two")

    # Open again: the writer keeps what it has, a stranger gets in.
    controller.trilun("volume", "allow", "ctl1/v", "--all")
    load.goes_on()
    (other,) = log_in_as(host, "three", iqn=IQN)
    host.shell(f"dd if=/dev/zero of={other} bs=4k count=1 seek=12400 oflag=direct status=none")
    assert listed(controller) == {ONE: PORTAL, initiator("three"): ""}
    load.goes_on()
    host.run("systemctl", "restart", UNIT)
    load.goes_on()
    load.ends_well()


def test_nobody_stays_who_was_there_while_it_was_open(controller: Controller) -> None:
    """The kernel would let each of them in again by an ACL that it doesn't show."""
    host = controller.host
    controller.trilun("volume", "create", "ctl1/v", str(16 << 20))
    log_in_as(host, "one", "two", iqn=IQN)
    host.run("dmesg", "-C")
    refused = controller.trilun("volume", "allow", "ctl1/v", ONE, TWO, check=False)
    assert "is logged in" in refused["error"]["message"]
    assert sorted(listed(controller)) == [ONE, TWO]
    log_out(host)
    controller.trilun("volume", "allow", "ctl1/v", ONE)
    meet_a_closed_door(host, "two")
    (disk,) = log_in_as(host, "one", iqn=IQN)
    serial = host.run("cat", f"/sys/block/{Path(disk).name}/device/wwid").text
    assert serial.removeprefix("naa.") == controller.trilun("volume", "show", "ctl1/v")["naa"]
    until(lambda: listed(controller) == {ONE: PORTAL}, "one is listed with its address")
    # A host with an ACL hears what every host hears.
    assert UNIT_ATTENTION not in heard(host, disk)
    controller.trilun("volume", "grow", "ctl1/v", str(32 << 20))
    until(lambda: UNIT_ATTENTION in heard(host, disk), "it hears that the volume has grown")


@pytest.mark.parametrize("controller", [(CHAP, {"chap": SECRET})], indirect=True)
def test_hosts_of_a_list_have_to_know_the_secret_as_well(controller: Controller) -> None:
    host = controller.host
    controller.trilun("volume", "create", "ctl1/v", str(16 << 20), "--allow", ONE)
    for name in ("one", "two"):
        know(host, name)
        assert node(host, name, "-l") == REFUSED
        tell_secret(host, name, "secret-of-others")
        assert node(host, name, "-l") == REFUSED
        tell_secret(host, name, SECRET)
    assert node(host, "one", "-l") == 0
    assert node(host, "two", "-l") == REFUSED
    assert listed(controller) == {ONE: PORTAL}
    controller.trilun("volume", "allow", "ctl1/v", "--all")
    assert node(host, "two", "-l") == 0
    assert listed(controller) == {ONE: PORTAL, TWO: ""}
    know(host, "three")
    assert node(host, "three", "-l") == REFUSED
