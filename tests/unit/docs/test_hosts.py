"""docs/operating.md, "Which hosts may log in": its commands, names and limits are the program's."""

from __future__ import annotations

import re

import pytest

from controller.api import messages as m
from hostagent.config import AgentConfig
from targets.iscsi.login import LoginStatus
from targets.naming import initiator_name
from tests.unit.docs import test_operating

pytestmark = pytest.mark.plain

HOSTS = test_operating.section("Which hosts may log in")


@pytest.mark.parametrize("line", re.findall(r"^    (trilun .*)$", HOSTS, re.MULTILINE))
def test_each_command_is_one(line: str) -> None:
    test_operating.test_each_command_is_one(line)


def test_limits_and_names() -> None:
    assert f"up to {m.MAX_INITIATORS}, by their iSCSI names" in HOSTS
    assert f"login status {LoginStatus.FORBIDDEN:04x}" in HOSTS
    for name in re.findall(r"iqn\.\S+[a-z0-9]", HOSTS.replace("NODE", "node")):
        assert initiator_name(name) == name


def test_an_agents_name() -> None:
    agent = AgentConfig.model_validate({"node": "HOST1", "broker": {"host": "127.0.0.1"}})
    assert agent.initiator_name == "iqn.2026-11.io.trilun:host.host1"
    assert agent.initiator_name in HOSTS
