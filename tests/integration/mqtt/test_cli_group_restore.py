"""`trilun restore --whole GROUP`: one job of the host 2 that has all data sets of the group."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Exit
from controller.api.restores import DEADLINE_S
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
JOB = "restore-group-0123456789"


class Host2:
    """An agent with the data sets 'data' and 'log'."""

    def __init__(self) -> None:
        self.fails = False

    def __call__(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        del request
        if isinstance(params, m.UndoDrop):
            return Answer(result=m.BackupList(data_set=params.data_set, backups=[]))
        assert isinstance(params, m.GroupRestoreStart), verb
        return Answer(result=job(fails=self.fails))


def job(*, fails: bool = False) -> m.JobInfo:
    """The restore of both, ended."""
    fields: dict[str, object] = {"data_set": "shop", "kind": m.JobKind.GROUP_RESTORE}
    fields |= {"data_sets": ["data", "log"], "state": "done"}
    if fails:
        fields |= {"state": "failed", "error": "keep: 'log': busy", "next_step": "end it"}
    else:
        restored = [
            m.MemberRestore(
                data_set=name, backup_pair=f"{name}-1", second_union_bytes=1, union_bytes=4096,
                discarded_bytes=0, payload_bytes=1, wire_bytes=1, undo_pair=f"{name}-2",
            )
            for name in ("data", "log")
        ]  # fmt: skip
        fields["receipt"] = m.Receipt(
            job=JOB, kind=m.JobKind.GROUP_RESTORE, data_set="shop", restored=restored,
            whole="the whole volume was asked for", undo=f"`trilun restore undo {JOB}`",
        )  # fmt: skip
    return job_info(JOB, "host2", **fields)


def agent(name: str, **pairs: str) -> m.NodeStatus:
    refs = [
        {"name": data_set, "part": "host2", "primary": "ctl1", "remote_pair": pair}
        for data_set, pair in pairs.items()
    ]
    return controller_status(name, kind=m.NodeKind.AGENT, data_sets=refs)


@asynccontextmanager
async def shop(broker: Mosquitto, directory: Path) -> AsyncIterator[tuple[Host2, FakeNode]]:
    two = directory / "two"
    two.mkdir()
    host2 = Host2()
    async with (
        fake_node(broker.address, directory, controller("ctl1", SHOP)),
        fake_node(broker.address, two, host2, agent("host2", data="p1", log="p2")) as node,
    ):
        yield host2, node


async def test_it_is_one_job_of_host_2(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with shop(broker, tmp_path) as (_, node):
        asked = {"group": "shop", "node": "ctl1", "from_backup": "monday"}
        for line, more in (
            (LINE, {}),
            (("restore", "--whole", "ctl1/shop"), {"from_backup": ""}),
            ((*LINE, "--dry-run"), {"dry_run": True}),
            ((*LINE, "--deadline", "90", "--force"), {"deadline_s": 90.0, "force": True}),
            ((*LINE, "--no-undo"), {"undo": m.Undo.NEVER}),
            ((*LINE, "--undoable", "--keep", "1"), {"keep": 1}),
        ):
            node.carried_out.clear()
            code, out, _ = await cli(*line)
            assert (code, [verb for verb, *_ in node.carried_out]) == (0, ["job.restore_group"])
            assert node.carried_out[0][1] == m.GroupRestoreStart.model_validate({**asked, **more})
            for word in ("shop", "data-1", "log-2", "4 KiB", f"restore undo {JOB}"):
                assert word in out, word
        assert m.GroupRestoreStart.model_validate(asked).deadline_s == DEADLINE_S


async def test_a_failed_one_says_what_failed(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with shop(broker, tmp_path) as (host2, _):
        host2.fails = True
        code, _, err = await cli(*LINE)
        assert code == Exit.FAILED
        assert f"job '{JOB}' failed: keep: 'log': busy" in err
        assert "end it" in err


async def test_it_is_undone_and_dropped_as_one(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with shop(broker, tmp_path) as (_, node):
        node.bus.publish_state("job", JOB, job())
        await node.flushed()
        code, _, _ = await cli("restore", "undo", JOB, "--no-undo")
        assert code == 0
        assert node.carried_out[-1][1] == m.GroupRestoreStart(
            group="shop", node="ctl1", from_backup=f"before-{JOB}", undo=m.Undo.NEVER
        )
        node.carried_out.clear()
        code, out, _ = await cli("--json", "restore", "drop-undo", JOB)
        assert code == 0
        assert [each["data_set"] for each in json.loads(out)["results"]] == ["data", "log"]
        assert [params for _, params, _ in node.carried_out] == [
            m.UndoDrop(data_set=name, job=JOB) for name in ("data", "log")
        ]


async def test_what_no_one_host_2_has_is_refused(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    async with fake_node(broker.address, tmp_path / "one", controller("ctl1", SHOP)):
        code, _, err = await cli(*LINE)
        assert (code, "no agent has as host2 a data set" in err) == (Exit.NOT_FOUND, True)
        async with (
            fake_node(broker.address, tmp_path / "two", Host2(), agent("host2", data="p1")),
            fake_node(broker.address, tmp_path / "three", Host2(), agent("host3", log="p2")),
        ):
            code, _, err = await cli(*LINE)
            assert code == Exit.REJECTED
            assert "several hosts: host2: p1; host3: p2" in err
            assert "restore each on its own" in err


async def test_what_cannot_be_meant(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with shop(broker, tmp_path) as (_, node):
        for line in (
            ("restore", "--whole", "a/b/c", "--from", "x"),
            ("restore", "--whole", "data", "--deadline", "5"),
            (*LINE, "--deadline", "0"),
        ):
            code, _, _ = await cli(*line)
            assert code == Exit.USAGE, line
        assert node.carried_out == []
