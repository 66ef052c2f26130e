"""A data set goes by its name or its remote pair's; what may be two things is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import click
import pytest

from controller.api import messages as m
from controller.api.codes import Code, Exit
from controller.api.errors import RejectedError
from controller.cli import backup as backups
from controller.cli.groups import live_groups
from controller.cli.locate import choose_agent, data_set_called
from controller.cli.main import run
from controller.cli.names import Ref, parse_ref
from controller.cli.restore import _group
from controller.cli.session import Session
from controller.service.client import ApiClient
from tests.nodes import controller_status

pytestmark = pytest.mark.plain


def agent(node: str, part: str, **pairs: str) -> m.NodeStatus:
    refs = [
        {"name": name, "part": part, "primary": f"c-{name}", "remote_pair": pair.replace("_", "-")}
        for name, pair in pairs.items()
    ]
    return controller_status(node, kind=m.NodeKind.AGENT, data_sets=refs)


def known(**pairs: str) -> dict[str, m.NodeStatus]:
    return {"h1": agent("h1", "host1", **pairs), "h2": agent("h2", "host2", **pairs)}


NODES = known(demo="demo_remote", log="log_remote", same="same")


@pytest.mark.parametrize("part", ["host1", "host2"])
@pytest.mark.parametrize("name", ["demo", "demo-remote"])
def test_both_names_are_the_data_sets(part: Any, name: str) -> None:
    assert choose_agent(NODES, part, name) == ({"host1": "h1", "host2": "h2"}[part], "demo")
    assert choose_agent(NODES, part, "same")[1] == "same"


def test_a_name_that_nobody_has_is_not_found() -> None:
    with pytest.raises(RejectedError, match="'none'") as caught:
        choose_agent(NODES, "host1", "none")
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("pairs", "name", "choices"),
    [
        ({"demo": "shared", "log": "shared"}, "shared", "write one of demo, log"),
        ({"demo": "first", "log": "demo"}, "demo", "write one of first, log"),
    ],
)
def test_what_may_be_two_data_sets_is_refused(
    pairs: dict[str, str], name: str, choices: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        choose_agent(known(**pairs), "host1", name)
    assert (caught.value.code, caught.value.next_step) == (Code.BAD_REQUEST, choices)
    for choice in choices.removeprefix("write one of ").split(", "):
        choose_agent(known(**pairs), "host1", choice)


def test_the_controller_tells_pairs_of_one_name_apart() -> None:
    nodes = known(demo="shared", log="shared")
    assert data_set_called(nodes, "shared", "c-log") == "log"
    assert data_set_called(nodes, "shared", "c-other") == "shared"


class Client:
    """A client that knows the nodes, and the groups of one controller."""

    def __init__(self, *groups: str) -> None:
        self.groups = [m.GroupInfo(name=g, node="c-demo", pairs=["p"], states={}) for g in groups]

    async def discover(self) -> dict[str, m.NodeStatus]:
        return {**NODES, "c-demo": controller_status("c-demo")}

    async def call_for(self, *_: object) -> m.GroupList:
        return m.GroupList(groups=self.groups)


def backed_up(text: str, *groups: str) -> object:
    client = cast("ApiClient", Client(*groups))
    return asyncio.run(backups._data_set(client, parse_ref(text)))


@pytest.mark.parametrize(
    ("text", "groups", "found"),
    [
        ("demo-remote", (), ("h1", "demo")),
        ("c-demo/demo-remote", (), ("h1", "demo")),
        ("c-demo/demo-remote", ("demo-remote",), Ref("demo-remote", "c-demo")),
        ("c-demo/shop", ("shop",), Ref("shop", "c-demo")),
        ("shop", ("shop",), Ref("shop")),
        ("demo", ("demo",), ("h1", "demo")),
    ],
)
def test_a_backup_is_of_a_data_set_its_pair_or_a_group(
    text: str, groups: tuple[str, ...], found: object
) -> None:
    assert backed_up(text, *groups) == found


def test_the_name_of_a_pair_and_a_group_is_refused() -> None:
    client = cast("ApiClient", Client("demo-remote"))
    for asking in (backups._data_set(client, Ref("demo-remote")), _group(client, "demo-remote")):
        with pytest.raises(RejectedError) as caught:
            asyncio.run(asking)
        assert caught.value.code is Code.BAD_REQUEST
        assert caught.value.next_step == "write one of demo, c-demo/demo-remote"
    assert asyncio.run(_group(cast("ApiClient", Client()), "demo-remote")) is None
    assert [group.name for group in asyncio.run(live_groups(client))] == ["demo-remote"]


def test_a_group_is_not_backed_up_quickly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is asked of an agent, and the reason and both ways out are said."""
    monkeypatch.setattr(Session, "run", lambda _session, work: asyncio.run(work(Client("shop"))))
    assert run(["--json", "backup", "shop", "--quick"]) == Exit.USAGE
    error = json.loads(capsys.readouterr().out)["error"]
    assert "a backup from its instant on" in error["message"]
    for words in ("without --quick", "each data set"):
        assert words in error["next_step"]


def test_completion_offers_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name in (("data_set", "demo"), ("remote_pair", "demo-remote"), ("group", "d-all")):
        monkeypatch.setattr(backups, f"complete_{kind}", lambda *_, n=name: [n])
    context = click.Context(backups.backup, info_name="backup")
    offered = {item.value for item in backups.backup.shell_complete(context, "d")}
    assert {"demo", "demo-remote", "d-all"} <= offered
