"""`trilun fs`: what host 1 has of a data set, and how an operator gives it back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Exit
from controller.api.verbs import Verb
from controller.cli.main import run
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.nodes import agent_status, fake_node, job_info

pytestmark = pytest.mark.tools

Cli = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def cli(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> Cli:
    async def call(*args: str) -> tuple[int, str, str]:
        command = ["--broker", f"127.0.0.1:{broker.port}", *args]
        code = await asyncio.to_thread(run, command)
        out, err = capsys.readouterr()
        return code, out, err

    return call


class Host1:
    """Its agent, with one data set that is released."""

    def __init__(self, job: m.JobInfo | None) -> None:
        self.released_for = "restore-0123456789"
        self.job = job

    def answer(self, verb: Verb, params: m.Params, _request: m.Request) -> Answer:
        if verb.name == "job.list":
            return Answer(result=m.JobList(jobs=[] if self.job is None else [self.job]))
        if verb.name == "fs.reclaim":
            assert params == m.FsReclaim(data_set="db", job=self.released_for)
            self.released_for = ""
        there = {"mounted": not self.released_for, "released_for": self.released_for}
        fields = {"data_set": "db", "frozen": False, "mountpoint": "/srv/db", **there}
        return Answer(result=m.HostFs.model_validate(fields))


async def test_what_nobody_gives_back_is_taken_back(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    host1 = Host1(None)
    status = agent_status("host1", "db", "host1")
    async with fake_node(broker.address, tmp_path, host1.answer, status):
        code, out, _ = await cli("fs", "show", "db")
        assert code == Exit.OK
        assert "restore-0123456789" in out
        assert (await cli("fs", "reclaim", "db"))[0] == Exit.USAGE, "the job has to be named"
        code, out, _ = await cli("fs", "reclaim", "db", "--job", "restore-0123456789")
        assert (code, out) == (Exit.OK, "host 1 has 'db' again\n")
        code, out, _ = await cli("fs", "show", "--json")
        assert json.loads(out)["mounted"]


async def test_it_is_not_taken_from_a_job_that_runs(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    job = job_info().model_copy(update={"id": "restore-0123456789"})
    host1 = Host1(job)
    status = agent_status("host1", "db", "host1")
    reclaim = ("fs", "reclaim", "db", "--job", job.id)
    async with fake_node(broker.address, tmp_path, host1.answer, status):
        code, _, err = await cli(*reclaim)
        assert code == Exit.REJECTED
        assert f"trilun job cancel {job.id}" in err
        assert host1.released_for
        assert (await cli(*reclaim, "--force"))[0] == Exit.OK
        assert not host1.released_for
        host1.released_for, host1.job = job.id, job.model_copy(update={"state": m.JobState.FAILED})
        assert (await cli(*reclaim))[0] == Exit.OK
