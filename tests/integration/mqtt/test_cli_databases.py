"""`trilun db check`, and `trilun job cancel` and `resume`: seen through, and told how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Exit, Verdict
from controller.api.errors import RejectedError
from controller.api.verbs import Verb
from controller.cli import databases
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.integration.mqtt.test_cli import Cli, cli
from tests.nodes import FakeNode, agent_status, fake_node, job_info

pytestmark = pytest.mark.tools
__all__ = ["cli"]

D = m.DatabaseState
JOB = "whole-0123456789"


class Host:
    """An agent whose checks take some looks, and whose job can be given up."""

    def __init__(self) -> None:
        self.ends = D.GOOD
        self.looks = 2
        self.job = job_info(
            JOB, "host1", state="failed", error="reclaim: away", next_step="mend it"
        )
        self.refuses = False

    def __call__(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        del params, request
        if verb.name == "job.list":
            return Answer(result=m.JobList(jobs=[self.job]))
        if verb.name in {"job.cancel", "job.resume"}:
            if self.refuses:
                raise RejectedError(Code.WRONG_STATE, "it can only go forward", "wait for it")
            state = "cancelled" if verb.name == "job.cancel" else "done"
            self.job = job_info(JOB, "host1", state=state)
            return Answer(Verdict.ACCEPTED, "as you say", result=self.job)
        self.looks -= verb.name == "db.show"
        running = self.looks > 0
        bad = {"error": "amcheck found an index", "next_step": "restore another"}
        database = m.DatabaseInfo.model_validate(
            {"name": "main", "kind": "postgresql", "path": "pg",
             "state": D.CHECKING if running else self.ends,
             **(bad if self.ends is D.FAILED and not running else {})}
        )  # fmt: skip
        return Answer(result=m.RecoveryInfo(data_set="demo", running=running, databases=[database]))


@asynccontextmanager
async def host(broker: Mosquitto, directory: Path) -> AsyncIterator[tuple[Host, FakeNode]]:
    one = Host()
    status = agent_status("host1", "demo", "host1")
    async with fake_node(broker.address, directory, one, status) as node:
        yield one, node


@pytest.mark.parametrize(("ends", "code"), [(D.GOOD, Exit.OK), (D.FAILED, Exit.FAILED)])
async def test_a_check_is_seen_through(
    broker: Mosquitto, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch,
    ends: m.DatabaseState, code: Exit,
) -> None:  # fmt: skip
    monkeypatch.setattr(databases, "POLL_S", 0.01)
    async with host(broker, tmp_path) as (one, node):
        one.ends = ends
        found, out, _ = await cli("db", "check", "demo")
        assert (found, ends.value in out) == (code, True)
        assert ("amcheck found an index" in out) == (ends is D.FAILED)
        assert [verb for verb, *_ in node.carried_out] == ["db.recover", "db.show", "db.show"]


async def test_a_check_that_nobody_waits_for_goes_on(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with host(broker, tmp_path) as (_, node):
        code, out, _ = await cli("db", "check", "--no-wait")
        assert (code, "checking" in out) == (Exit.OK, True)
        assert [verb for verb, *_ in node.carried_out] == ["db.recover"]


@pytest.mark.parametrize("command", ["cancel", "resume"])
async def test_a_job_is_given_up_or_gone_on_with(
    broker: Mosquitto, tmp_path: Path, cli: Cli, command: str
) -> None:
    async with host(broker, tmp_path) as (one, node):
        code, _, _ = await cli("job", command, JOB)
        assert code == Exit.OK
        assert node.carried_out[-1][:2] == (f"job.{command}", m.Named(name=JOB))
        one.refuses = True
        code, _, err = await cli("job", command, JOB)
        assert (code, "it can only go forward" in err, "wait for it" in err) == (
            Exit.REJECTED,
            True,
            True,
        )
