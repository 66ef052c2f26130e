"""docs/installing.md: its configurations are read by the daemons' loaders, and fit each other."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from controller.cli.session import CliConfig
from controller.service.config import BrokerConfig, ControllerConfig
from hostagent.config import AgentConfig

pytestmark = pytest.mark.plain

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, dict[str, Any]] = {
    name: tomllib.loads(text)
    for name, text in re.findall(r"```toml (\S+)\n(.*?)```", PAGE, re.DOTALL)
}
UNITS = {"ctl": "trilund@.service", "hos": "trilun-agent@.service"}


def controller(name: str) -> ControllerConfig:
    return ControllerConfig.model_validate(EXAMPLES[name])


def agent(name: str) -> AgentConfig:
    return AgentConfig.model_validate(EXAMPLES[name])


def brokers() -> dict[str, BrokerConfig]:
    return {
        "ctl1": controller("ctl1").broker,
        "ctl2": controller("ctl2").broker,
        "host1": agent("host1").broker,
        "host2": agent("host2").broker,
        "cli": CliConfig.model_validate(EXAMPLES["cli"]).broker,
    }


def test_every_example_is_known_here() -> None:
    assert set(EXAMPLES) == set(brokers())
    assert len(re.findall(r"^```toml", PAGE, re.MULTILINE)) == len(EXAMPLES)


@pytest.mark.parametrize(("one", "other"), [("ctl1", "ctl2"), ("ctl2", "ctl1")])
def test_controllers_know_each_other(one: str, other: str) -> None:
    assert controller(one).node == one
    assert controller(one).peers == {other: controller(other).link.listen}


def test_agents_have_the_same_data_set() -> None:
    (one,), (two,) = agent("host1").data_set, agent("host2").data_set
    assert one.model_copy(update={"part": "host2"}) == two
    assert (one.part, one.primary, one.secondary) == ("host1", "ctl1", "ctl2")
    for command in (
        f"volume create {one.primary}/{one.first} ",
        f"volume create {one.secondary}/{one.second} ",
        f"volume create {one.secondary}/{one.third} ",
        f"pair create {one.remote_pair} {one.primary}/{one.first} {one.secondary}/{one.second}",
        f"pair create {one.local_pair} {one.secondary}/{one.second} {one.secondary}/{one.third}",
    ):
        assert f"trilun {command}" in PAGE


def test_everybody_has_the_broker_and_a_user_there() -> None:
    users = re.search(r"for name in ([^;]+); do mosquitto_passwd", PAGE)
    assert users
    assert set(users[1].split()) == {config.username for config in brokers().values()}
    assert {(config.host, config.port) for config in brokers().values()} == {("192.0.2.1", 1883)}
    assert "listener 1883 192.0.2.1\n" in PAGE


@pytest.mark.parametrize("name", ["ctl1", "ctl2", "host1", "host2"])
def test_credentials_are_passed_by_the_units(name: str) -> None:
    credential = str(brokers()[name].password_file).removeprefix("credential:")
    unit = (ROOT / "systemd" / UNITS[name[:3]]).read_text(encoding="utf-8")
    assert f"LoadCredential={credential}:trilun.%i.{credential}\n" in unit


def test_the_firewall_lets_in_what_is_listened_on() -> None:
    ports = {int(port) for port in re.findall(r"\| (\d+)/tcp", PAGE)}
    listened = {1883}
    for name in ("ctl1", "ctl2"):
        config = controller(name)
        listened |= {config.link.listen.port, *(portal.port for portal in config.target.listen)}
    assert ports == listened


def test_what_is_installed_exists() -> None:
    for path in set(re.findall(r"(?<!etc/)\bsystemd/[\w@.-]+|\brequirements\.lock", PAGE)):
        assert (ROOT / path).exists(), path
    installed = re.search(r"install -m 644 -t /etc/systemd/system (.*)", PAGE)
    assert installed
    assert {Path(path).name for path in installed[1].split()} == {
        path.name for path in (ROOT / "systemd").iterdir() if path.is_file()
    }


def test_uninstalling_forgets_the_targets_first_and_takes_away_what_was_installed() -> None:
    configuration = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    steps = PAGE.partition("## Uninstall")[2]
    assert steps.index("/opt/trilun/bin/python -m targets.lio --node ctl1") < steps.index("rm ")
    removed = [
        pattern
        for line in re.findall(r"^(?:rm|find) (.*)$", steps, re.MULTILINE)
        for pattern in line.split()
        if pattern.startswith("/")
    ]
    installed = re.findall(r"(?: |>)(/(?:etc|opt|usr/local)/\S*trilun[\w.@/-]*)", PAGE)
    installed += re.findall(r" (/etc/\S+\.conf)$", configuration, re.MULTILINE)
    tmpfiles = (ROOT / "systemd/lio/tmpfiles.conf").read_text(encoding="utf-8")
    installed += re.findall(r"^d (\S+)", tmpfiles, re.MULTILINE)
    installed += [
        f"/etc/systemd/system/{each.name}"
        for each in (ROOT / "systemd").iterdir()
        if each.is_file()
    ]
    assert len(installed) > len(set(removed))
    for path in installed:
        way = [path, *map(str, Path(path).parents)]
        assert any(fnmatch(each, pattern) for each in way for pattern in removed), path


def test_commands_are_the_command_lines_own() -> None:
    from controller.cli.backup import BackupGroup
    from controller.cli.main import cli

    for line in re.findall(r"^trilun ([a-z ]+)", PAGE, re.MULTILINE):
        names = line.split()
        command: Any = cli
        while names and hasattr(command, "commands"):
            name = names.pop(0)
            if isinstance(command, BackupGroup) and name not in command.commands:
                break  # a data set
            command = command.commands[name]
