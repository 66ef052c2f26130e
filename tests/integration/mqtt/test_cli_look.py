"""`trilun ls`, `cat` and `diff` against a fake agent behind a real broker."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Exit
from controller.api.errors import RejectedError
from controller.api.looking import Difference, FsEntry
from controller.api.verbs import Verb
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.integration.mqtt.test_cli import Cli, cli
from tests.nodes import FakeNode, agent_status, fake_node, job_info

pytestmark = pytest.mark.tools
__all__ = ["cli"]

CONTENT = b"\0\xff binary \r\n" * 7


def entry(name: str, **more: Any) -> FsEntry:
    fields = {
        "name": name, "mode": 0o100640, "uid": 1, "gid": 2, "size_bytes": 3, "mtime_ns": 0,
        "ctime_ns": 0, "inode": 1, "links": 1,
    }  # fmt: skip
    return FsEntry.model_validate(fields | more)


class Agent:
    """An agent whose look is open at once, with two directories in it."""

    def __init__(self, opened: m.JobInfo | None = None) -> None:
        self.node: FakeNode | None = None
        self.opened = opened or look(message="open")
        self.digest = hashlib.sha256(CONTENT).hexdigest()
        self.close_fails = False

    def __call__(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        if verb.name == "job.look":
            assert self.node is not None
            self.node.bus.publish_state("job", "job1", self.opened)
            return Answer(result=look())
        if verb.name == "look.close":
            if self.close_fails:
                raise RejectedError(Code.INTERNAL, "no way")
            return Answer(result=look(state="done"))
        return Answer(result=getattr(self, verb.name.replace(".", "_"))(params))

    def look_list(self, params: m.LookList) -> m.FsEntries:
        if params.path == "d":
            return m.FsEntries(entries=[entry("caf%E9"), entry("x\n")], more=False)
        if not params.after:
            return m.FsEntries(entries=[entry("a")], more=True)
        link = entry("l", mode=0o120777, link_to="to")
        return m.FsEntries(entries=[entry("d", mode=0o40755), link], more=False)

    def look_read(self, params: m.LookRead) -> m.LookPiece:
        piece = CONTENT[params.offset_bytes : params.offset_bytes + 50]
        last = params.offset_bytes + len(piece) == len(CONTENT)
        return m.LookPiece(
            data=base64.b64encode(piece).decode(),
            offset_bytes=params.offset_bytes,
            size_bytes=len(CONTENT),
            digest=self.digest if last else "",
        )

    def look_diff(self, params: m.LookDiff) -> m.Differences:
        if params.path:
            return m.Differences(differences=[], directories=[], compared_count=2, read_bytes=0)
        one = Difference(path="d/x", what="changed", detail="size", kind="file")
        two = Difference(path="new", what="added", kind="directory")
        if not params.after:
            return m.Differences(
                differences=[one], directories=["d"], compared_count=1, read_bytes=5, after="x"
            )
        return m.Differences(differences=[two], directories=[], compared_count=1, read_bytes=0)

    def closed(self) -> int:
        assert self.node is not None
        return [verb for verb, _, _ in self.node.carried_out].count("look.close")


def look(**more: Any) -> m.JobInfo:
    return job_info(**{"kind": "look", "step": "look", **more})


class Ran:
    """Runs a command line beside the agent, which must have been closed afterwards."""

    def __init__(self, broker: Mosquitto, folder: Path, cli: Cli) -> None:
        self.broker, self.folder, self.cli = broker, folder, cli

    async def __call__(self, agent: Agent, *args: str) -> tuple[int, str, str]:
        status = agent_status("host2", "db", "host2")
        async with fake_node(self.broker.address, self.folder, agent, status) as node:
            agent.node = node
            done = await self.cli(*args)
            assert agent.closed() == 1
            return done


@pytest.fixture
def ran(broker: Mosquitto, tmp_path: Path, cli: Cli) -> Ran:
    return Ran(broker, tmp_path, cli)


async def test_lists_every_page_and_nothing_that_plays_with_a_terminal(ran: Ran) -> None:
    code, out, err = await ran(Agent(), "ls")
    assert (code, err) == (Exit.OK, "")
    assert out.splitlines() == ["a", "d", "l"]
    _, out, _ = await ran(Agent(), "ls", "-l", "-R", "--from", "monday")
    assert out.splitlines()[0] == ("-rw-r-----   1     1     2            3 1970-01-01 00:00:00 a")
    assert [line.partition("00:00:00 ")[2].rstrip() for line in out.splitlines()[1:]] == [
        "d", "l -> to", "d/caf\ufffd", "d/x",
    ]  # fmt: skip
    agent = Agent()
    _, out, _ = await ran(agent, "ls", "--json", "d", "--from", "monday")
    assert [e["path"] for e in json.loads(out)["entries"]] == ["d/caf%E9", "d/x\n"]
    assert agent.node is not None
    started = next(params for verb, params, _ in agent.node.carried_out if verb == "job.look")
    assert started == m.LookStart(data_set="db", from_backup="monday")


async def test_cat_is_binary_and_checked(ran: Ran) -> None:
    code, out, _ = await ran(Agent(), "cat", "f", "--json")
    assert code == Exit.OK
    assert base64.b64decode(json.loads(out)["data_base64"]) == CONTENT
    assert json.loads(out)["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    agent = Agent()
    agent.digest = "0" * 64
    code, out, _ = await ran(agent, "cat", "f", "--json")
    assert code == Exit.FAILED
    assert "did not arrive as the agent read it" in json.loads(out)["error"]["message"]


async def test_diff_tells_by_sign_and_exit_code(ran: Ran) -> None:
    code, out, err = await ran(Agent(), "diff")
    assert code == Exit.FAILED
    assert out.splitlines() == ["C d/x (size)", "A new/"]
    assert "4 files compared, 5 B of content read" in err
    code, out, _ = await ran(Agent(), "--json", "diff", "d")
    assert (code, json.loads(out)["differences"]) == (Exit.OK, [])


async def test_a_view_that_could_not_be_opened_says_why_and_is_closed(ran: Ran) -> None:
    failed = look(state="failed", error="plan: there is no backup", code=Code.WRONG_STATE,
                  next_step="take one")  # fmt: skip
    code, out, err = await ran(Agent(failed), "ls")
    assert (code, out) == (Exit.REJECTED, "")
    assert "there is no backup" in err
    assert "next: take one" in err


async def test_what_can_not_be_closed_is_told_beside_the_answer(ran: Ran) -> None:
    agent = Agent()
    agent.close_fails = True
    code, out, err = await ran(agent, "ls")
    assert (code, out.splitlines()) == (Exit.OK, ["a", "d", "l"])
    assert "ends by itself: no way" in err


async def test_restore_takes_its_data_set_from_the_path(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    status = agent_status("host2", "db", "host2")
    refs = [
        m.DataSetRef(name="db", part="host2", mountpoint="/srv/db"),
        m.DataSetRef(name="web", part="host2", mountpoint="/srv/web"),
    ]
    status = status.model_copy(update={"data_sets": refs})

    def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return Answer(result=job_info())

    async with fake_node(broker.address, tmp_path, canned, status) as node:
        code, _, err = await cli("restore", "x", "--no-wait")
        assert code == Exit.USAGE
        assert "several data sets: db, web" in err
        code, _, _ = await cli(
            "restore",
            "/srv/web/x*",
            "y",
            "--to",
            "z",
            "--conflict",
            "skip",
            "--verify",
            "--no-wait",
        )
        assert code == Exit.OK
        assert [params for _, params, _ in node.carried_out] == [
            m.RestoreStart(
                data_set="web", paths=["/srv/web/x*", "y"], to="z", conflict="skip", verify=True
            )
        ]
