"""A machine whose kernel can't be a target: one sentence, or the embedded target."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from controller.frontends import open_front_end
from controller.lio import lio_settings
from controller.service.config import ConfigError, Endpoint, TargetConfig
from targets.iscsi.chap import ChapCredentials
from targets.lio import probe
from targets.lio.probe import LioUnavailableError
from tests.brokers import free_port


@pytest.fixture
def reason() -> str:
    """Why this machine's kernel can't."""
    try:
        probe.check()
    except LioUnavailableError as error:
        return str(error)
    pytest.skip("this machine's kernel has LIO: tests/lab shows that it works")


def test_the_reason_has_a_next_step(reason: str) -> None:
    assert ";" in reason
    assert "\n" not in reason
    assert "module" in reason or "configfs" in reason or "root" in reason


async def test_auto_takes_the_embedded_target_and_says_why(reason: str) -> None:
    config = TargetConfig(kind="auto", listen=[Endpoint("127.0.0.1", free_port())])
    front_end = await open_front_end("n", config, None)
    try:
        assert front_end.kind == "embedded"
        assert front_end.lines == [f"target embedded: {reason}"]
        host, _, port = front_end.exporter.portals[0].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    finally:
        await front_end.close()


async def test_auto_takes_the_embedded_target_where_the_kernel_needs_an_address() -> None:
    config = TargetConfig(kind="auto", listen=[Endpoint("localhost", 0)])
    front_end = await open_front_end("n", config, None)
    await front_end.close()
    assert front_end.kind == "embedded"


async def test_embedded_is_asked_for_without_a_word() -> None:
    config = TargetConfig(kind="embedded", listen=[Endpoint("127.0.0.1", 0)])
    front_end = await open_front_end("n", config, None)
    await front_end.settle()
    await front_end.close()
    assert front_end.lines == []


def test_a_daemon_that_must_have_it_ends_and_says_why(reason: str, tmp_path: Path) -> None:
    config = tmp_path / "controller.toml"
    config.write_text(
        f'node = "n"\nstate_dir = "{tmp_path}/state"\n'
        f'[broker]\nport = {free_port()}\n[target]\nkind = "lio"\n'
        f'[link]\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    command = [sys.executable, "-m", "controller.daemon", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    assert ended.returncode == 1
    assert reason in lines[-1]
    assert "Traceback" not in ended.stderr


def test_the_configuration_is_checked_without_starting(tmp_path: Path) -> None:
    config = tmp_path / "controller.toml"
    config.write_text('node = "n"\n[target]\nkind = "lio"\nlisten = ["target.example:3260"]\n')
    command = [sys.executable, "-m", "controller.daemon", "--check-config"]
    ended = subprocess.run(
        [*command, "--config", str(config)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("target.listen: target.example:3260: the kernel's target needs")


@pytest.mark.parametrize(
    ("listen", "chap", "words"),
    [
        (
            [Endpoint("target.example", 3260)],
            None,
            "target.listen: target.example:3260: the kernel",
        ),
        ([Endpoint("10.0.0.1", 0)], None, "target.listen: 10.0.0.1:0"),
        ([Endpoint("10.0.0.1", 3260)], ChapCredentials("u", "NULLnull"), "target.chap: "),
    ],
)
def test_what_the_kernel_cannot_be_asked_for(
    listen: list[Endpoint], chap: ChapCredentials | None, words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        lio_settings("n", listen, chap)
    assert len(raised.value.lines) == 1
    assert raised.value.lines[0].startswith(words)
    assert "NULLnull" not in str(raised.value)


def test_a_node_takes_no_other_node_s_objects_for_its_own() -> None:
    settings = lio_settings("a", [Endpoint("::1", 3260)], ChapCredentials("u", "s"))
    assert settings.portals[0].name == "[::1]:3260"
    assert not f"trilun-a.b@{'0' * 32}".startswith(settings.owner.backstore_prefix)
    assert not f"trilun-a-b@{'0' * 32}".startswith(settings.owner.backstore_prefix)
