"""`trilun volume allow` and `create --allow` against a fake node behind a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import pytest

from controller.api import messages as m
from controller.api.codes import Exit
from controller.api.verbs import Verb
from controller.cli.main import run
from controller.cli.names import complete_initiator
from controller.service.bus import Answer
from controller.service.config import Endpoint
from tests.brokers import Mosquitto
from tests.nodes import FakeNode, fake_node, volume_info

pytestmark = pytest.mark.tools

ONE, TWO = "iqn.2026-11.io.lab:one", "iqn.2026-11.io.lab:two"
Cli = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def cli(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> Cli:
    async def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["--broker", f"127.0.0.1:{broker.port}", *args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
    names = getattr(params, "initiators", [ONE])
    sessions = [m.SessionInfo(initiator=ONE, address="192.0.2.7", since_s=0.0)]
    return Answer(result=volume_info("v1", initiators=names, sessions=sessions))


async def published(node: FakeNode) -> None:
    sessions = [m.SessionInfo(initiator=TWO, address="", since_s=0.0)]
    node.bus.publish_state("volume", "v1", volume_info("v1", initiators=[ONE], sessions=sessions))
    await node.flushed()


def asked(node: FakeNode) -> m.Params:
    return node.carried_out[-1][1]


async def test_a_list_is_set_and_opened(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node:
        await published(node)
        code, out, _ = await cli("volume", "allow", "ctl1/v1", ONE, TWO)
        assert code == Exit.OK
        assert asked(node) == m.VolumeAllow(name="v1", initiators=[ONE, TWO])
        assert f"{ONE}, {TWO}" in " ".join(out.split())
        code, out, _ = await cli("--json", "volume", "allow", "v1", "--all", "--force")
        assert code == Exit.OK
        assert asked(node) == m.VolumeAllow(name="v1", force=True)
        assert json.loads(out)["result"]["initiators"] == []
        code, out, _ = await cli("volume", "allow", "v1", "--all")
        assert "every initiator" in out


async def test_a_volume_is_made_with_a_list(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node:
        command = ("volume", "create", "ctl1/v1", "1MiB")
        assert (await cli(*command, "--allow", ONE, "--allow", TWO))[0] == Exit.OK
        assert asked(node) == m.VolumeCreate(name="v1", size_bytes=1 << 20, initiators=[ONE, TWO])


async def test_a_volume_is_shown_with_its_list(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node:
        await published(node)
        _, out, _ = await cli("volume", "show", "v1")
        allowed = next(line for line in out.splitlines() if line.startswith("allowed"))
        assert allowed.split()[1:] == [ONE]
        assert f"{ONE} from 192.0.2.7" in " ".join(out.split())
        _, out, _ = await cli("--json", "volume", "show", "v1")
        assert json.loads(out)["initiators"] == [ONE]


@pytest.mark.parametrize(
    "arguments",
    [(), (ONE, "--all"), ("x" * 224,), tuple(f"{ONE}{number}" for number in range(33))],
)
async def test_what_says_nothing_is_a_usage_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    code, _, err = await cli("volume", "allow", "v1", *arguments)
    assert code == Exit.USAGE
    assert "initiator" in err


async def test_initiators_that_are_known_complete(broker: Mosquitto, tmp_path: Path) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node:
        await published(node)
        context = click.Context(click.Command("trilun"))
        context.params["broker"] = Endpoint("127.0.0.1", broker.port)
        argument = click.Argument(["initiators"])

        def complete(start: str) -> list[str]:
            return complete_initiator(context, argument, start)

        assert await asyncio.to_thread(complete, "") == [ONE, TWO]
        assert await asyncio.to_thread(complete, TWO[:-1]) == [TWO]
