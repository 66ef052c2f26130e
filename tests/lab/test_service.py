"""A controller under a real systemd: what the service manager, its journal and its secrets do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.labs.host import Host
from tests.lab.controller import CREDENTIALS, NODE, UNIT, Controller
from tests.lab.lio import until

pytestmark = pytest.mark.lab

MIB = 1 << 20
QUIET = '[log]\nlevel = "warning"\n'
CHANGED = f'[log]\nlevel = "info"\n[resync]\nrate_limit_bytes_per_s = {3 * MIB}\n'


@pytest.fixture(scope="module")
def controller(solo: Host) -> Iterator[Controller]:
    """One whose broker wants a password."""
    made = Controller(solo, password="of-the-broker")
    made.install()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def volumes(controller: Controller) -> Iterator[list[str]]:
    """Names to make a pair of; gone at the end, pairs first."""
    names = ["v", "w"]
    for name in names:
        controller.trilun("volume", "create", f"{NODE}/{name}", str(16 * MIB))
    yield names
    for pair in controller.trilun("pair", "list")["pairs"]:
        controller.trilun("pair", "delete", pair["name"])
    for name in names:
        controller.trilun("volume", "delete", f"{NODE}/{name}")


def entries(controller: Controller, **fields: str) -> list[dict[str, Any]]:
    """The unit's journal where these fields are so."""
    matches = [f"{name}={value}" for name, value in fields.items()]
    lines = controller.host.run("journalctl", "-o", "json", "-u", UNIT, *matches).text
    return [json.loads(line) for line in lines.splitlines()]


def answers(controller: Controller) -> int:
    """How many answers it has logged, one more asked for."""
    controller.trilun("volume", "list")
    return sum(entry["MESSAGE"].startswith("request answered") for entry in entries(controller))


def test_a_secret_reaches_it_alone(controller: Controller) -> None:
    """The broker lets in who knows it; the file is root's, and the daemon is not root."""
    until(lambda: bool(controller.trilun("status")["nodes"]), "it to be seen through the broker")
    (node,) = controller.trilun("status")["nodes"]
    assert (node["node"], node["online"]) == (NODE, True)
    as_itself = ("setpriv", "--reuid=trilun", "--clear-groups", "cat", f"{CREDENTIALS}.mqtt")
    assert controller.host.run(*as_itself, check=False).code != 0
    assert controller.show("User") == "trilun"


def test_its_status_is_what_it_says(controller: Controller, volumes: list[str]) -> None:
    until(
        lambda: controller.show("StatusText") == "2 volumes; pairs: none", "its volumes in its line"
    )
    controller.trilun("pair", "create", "p", *(f"{NODE}/{name}" for name in volumes))
    controller.trilun("pair", "wait", "p", "PAIR", "--timeout", "60")
    until(lambda: "pairs: 2 PAIR" in controller.show("StatusText"), "its pair in its line")


def test_lines_in_the_journal_have_fields(controller: Controller, volumes: list[str]) -> None:
    controller.trilun("pair", "create", "p", *(f"{NODE}/{name}" for name in volumes))
    controller.trilun("pair", "wait", "p", "PAIR", "--timeout", "60")
    found = entries(controller, TRILUN_NODE=NODE, TRILUN_PAIR="p")
    assert found
    assert all(entry["SYSLOG_IDENTIFIER"] == "trilund" for entry in found)
    assert not entries(controller, TRILUN_NODE="another")
    own = [entry for entry in entries(controller) if entry.get("SYSLOG_IDENTIFIER") == "trilund"]
    assert all(entry["TRILUN_NODE"] == NODE for entry in own)


def test_a_reload_takes_over_what_can_be(controller: Controller) -> None:
    host, pid = controller.host, controller.show("MainPID")
    controller.configure(QUIET)
    host.run("systemctl", "reload", UNIT)
    before = answers(controller)
    controller.configure("[log]\nlevel = 7\n")
    mistaken = host.run("systemctl", "reload", UNIT, check=False)
    assert mistaken.code != 0
    assert answers(controller) == before
    controller.configure(CHANGED)
    host.run("systemctl", "reload", UNIT)
    until(lambda: answers(controller) > before, "the new level to be taken over")
    (line,) = (
        entry
        for entry in entries(controller)
        if "resync.rate_limit_bytes_per_s" in entry.get("TRILUN_TAKEN_OVER", "")
    )
    assert "log.level" in line["TRILUN_TAKEN_OVER"]
    assert controller.show("MainPID") == pid


def test_one_whose_loop_stands_still_is_started_again(controller: Controller) -> None:
    controller.drop_in("watchdog", "[Service]\nWatchdogSec=2\n")
    controller.host.run("systemctl", "restart", UNIT)
    before = controller.restarts()
    controller.host.run("systemctl", "kill", "-s", "STOP", "--kill-who=main", UNIT)
    controller.wait_restarted(before)
    assert "Watchdog timeout" in controller.log()
    assert controller.trilun("status")["nodes"]
