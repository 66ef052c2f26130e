"""`trilun restore --whole GROUP`: none begins before all can, and what became of each is said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Exit
from controller.api.verbs import Verb
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.integration.mqtt.test_cli import Cli, cli
from tests.integration.mqtt.test_cli_groups import controller
from tests.nodes import FakeNode, controller_status, fake_node, job_info

pytestmark = pytest.mark.tools
__all__ = ["cli"]

S = m.PairState
SHOP = m.GroupInfo(
    name="shop", node="ctl1", pairs=["p1", "p2"], states={"p1": S.PAIR, "p2": S.PAIR}
)
LINE = ("restore", "--whole", "shop", "--from", "monday")


class Host2:
    """An agent with the data sets 'data' and 'log', each with a backup 'monday'."""

    def __init__(self) -> None:
        self.taken_at = {"data": 1.7e9, "log": 1.7e9}
        self.fails: set[tuple[str, bool]] = set()
        """Data set, and whether it is the dry run that fails."""

    def __call__(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        del request
        if isinstance(params, m.DataSetNamed):
            name = params.data_set
            slots = [
                m.BackupInfo(
                    pair=f"{name}-{number}", volume="v", state="PSUS", is_backup=True,
                    label=label, taken_at=self.taken_at[name] + 60 * number,
                )
                for number, label in enumerate(("monday", "tuesday"))
            ]  # fmt: skip
            return Answer(result=m.BackupList(data_set=name, backups=slots))
        assert isinstance(params, m.RestoreStart)
        name, dry_run = params.data_set, params.dry_run
        fields: dict[str, object] = {"data_set": name, "kind": "whole", "state": "done"}
        if (name, dry_run) in self.fails:
            fields |= {"state": "failed", "error": "release: busy", "next_step": "end it"}
        elif not dry_run:
            fields["receipt"] = m.Receipt(job=f"j-{name}", kind=m.JobKind.WHOLE, data_set=name)
        return Answer(result=job_info(f"j-{name}", "host2", **fields))


@asynccontextmanager
async def shop(
    broker: Mosquitto, directory: Path, pairs: tuple[str, ...] = ("p1", "p2")
) -> AsyncIterator[tuple[Host2, FakeNode]]:
    refs = [
        {"name": name, "part": "host2", "primary": "ctl1", "remote_pair": pair}
        for name, pair in zip(("data", "log"), pairs, strict=False)
    ]
    status = controller_status("host2", kind=m.NodeKind.AGENT, data_sets=refs)
    two = directory / "two"
    two.mkdir()
    host2 = Host2()
    async with (
        fake_node(broker.address, directory, controller("ctl1", SHOP)),
        fake_node(broker.address, two, host2, status) as node,
    ):
        yield host2, node


def begun(node: FakeNode) -> list[tuple[str, str, bool]]:
    asked = [params for _, params, _ in node.carried_out]
    return [
        (each.data_set, each.from_backup, each.dry_run)
        for each in asked
        if isinstance(each, m.RestoreStart) and each.whole
    ]


PLANNED = [("data", "data-0", True), ("log", "log-0", True)]
BEGUN = [("data", "data-0", False), ("log", "log-0", False)]


async def test_all_are_planned_before_any_begins(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with shop(broker, tmp_path) as (_, node):
        code, _, _ = await cli(*LINE, "--dry-run")
        assert (code, begun(node)) == (Exit.OK, PLANNED)
        node.carried_out.clear()
        code, out, _ = await cli(*LINE, "--json")
        assert (code, begun(node)) == (Exit.OK, PLANNED + BEGUN)
        assert [job["data_set"] for job in json.loads(out)["jobs"]] == ["data", "log"]
        code, _, _ = await cli("restore", "--whole", "ctl1/shop", "--from", "tuesday")
        assert (code, begun(node)[-1]) == (Exit.OK, ("log", "log-1", False))


async def test_where_one_cannot_be_restored_none_begins(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with shop(broker, tmp_path) as (host2, node):
        host2.fails = {("log", True)}
        code, _, err = await cli(*LINE)
        assert (code, begun(node)) == (Exit.FAILED, PLANNED)
        assert "'log' is not restored: job 'j-log' failed: release: busy" in err
        assert "nothing was restored" in err


async def test_one_that_fails_is_named_beside_what_is_restored(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with shop(broker, tmp_path) as (host2, _):
        host2.fails = {("log", False)}
        code, _, err = await cli(*LINE)
        assert code == Exit.FAILED
        assert "'log' is not restored: job 'j-log' failed: release: busy" in err
        assert "end it" in err
        assert "restored: data;" in err


async def test_what_is_no_one_instant_is_refused(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with shop(broker, tmp_path) as (host2, node):
        host2.taken_at["log"] += 1
        code, _, err = await cli(*LINE)
        assert (code, "were not taken at one instant" in err) == (Exit.REJECTED, True)
        code, _, err = await cli("restore", "--whole", "shop", "--from", "sunday")
        assert (code, "'data' has no backup 'sunday'" in err) == (Exit.NOT_FOUND, True)
        code, _, err = await cli("restore", "--whole", "shop")
        assert (code, "--from LABEL" in err) == (Exit.USAGE, True)
        code, _, err = await cli("restore", "--whole", "a/b/c", "--from", "x")
        assert code == Exit.USAGE
        assert begun(node) == []


async def test_a_pair_without_its_host_2_is_named(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with shop(broker, tmp_path, ("p1",)) as (_, node):
        code, _, err = await cli(*LINE)
        assert (code, "p2" in err, begun(node)) == (Exit.NOT_FOUND, True, [])
