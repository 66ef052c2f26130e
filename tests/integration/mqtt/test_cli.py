"""The command `trilun` against a fake node behind a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.api.codes import Code, Exit, Verdict
from controller.api.errors import RejectedError
from controller.api.verbs import Verb
from controller.cli.main import run
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.nodes import (
    FakeNode,
    agent_status,
    controller_status,
    fake_node,
    job_info,
    pair_info,
    volume_info,
)

pytestmark = pytest.mark.tools

Cli = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def cli(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in a thread beside the nodes; gives exit code, stdout and stderr."""

    async def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["--broker", f"127.0.0.1:{broker.port}", *args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def controller(node: str) -> Callable[[Verb, m.Params, m.Request], Answer]:
    """A controller with volume v1 and the pair p1 towards ctl2."""

    def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        if verb.name == "volume.list":
            return Answer(result=m.VolumeList(volumes=[volume_info("v1", node)]))
        if verb.name == "pair.list":
            return Answer(result=m.PairList(pairs=[pair_info(node=node)]))
        if isinstance(params, m.VolumeCreate):
            info = volume_info(params.name, node, size_bytes=params.size_bytes)
            return Answer(result=info, next_step="log a host in")
        if isinstance(params, m.VolumeDelete):
            raise RejectedError(Code.IN_USE, "volume 'v1' is in a pair", "delete the pair first")
        if verb.name.startswith("volume."):
            return Answer(result=volume_info("v1", node))
        state = m.PairState.PSUS if isinstance(params, m.PairSplit) else m.PairState.PAIR
        name = getattr(params, "name", "p1")
        return Answer(Verdict.ACCEPTED, result=pair_info(name, node, state=state))

    return canned


async def published(node: FakeNode, name: str = "ctl1") -> None:
    node.bus.publish_state("volume", "v1", volume_info("v1", name))
    node.bus.publish_state("pair", "p1", pair_info(node=name))
    await node.flushed()


async def test_volumes_are_listed_aligned_and_as_json(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1")):
        code, out, err = await cli("volume", "list")
        assert (code, err) == (Exit.OK, "")
        heading, line = out.splitlines()
        assert heading.index("VOLUME") == line.index("v1")
        assert "1 MiB" in line
        code, out, _ = await cli("volume", "list", "--json")
        document = json.loads(out)
        assert document["volumes"][0]["size_bytes"] == 1 << 20
        assert document["offline_nodes"] == []


async def test_a_volume_is_created_where_it_was_asked(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        code, out, _ = await cli("volume", "create", "ctl1/v9", "2GiB")
        assert code == Exit.OK
        assert "volume 'v9' created" in out
        assert "next: log a host in" in out
        code, out, _ = await cli("--json", "volume", "create", "v8", "8192", "--node", "ctl1")
        assert json.loads(out)["result"]["size_bytes"] == 8192
        assert [params for _, params, _ in node.carried_out] == [
            m.VolumeCreate(name="v9", size_bytes=2 << 30),
            m.VolumeCreate(name="v8", size_bytes=8192),
        ]


async def test_a_volume_grows_where_it_is(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        await published(node)
        code, out, _ = await cli("volume", "grow", "v1", "2GiB")
        assert code == Exit.OK
        assert "volume 'v1' has grown" in out
        grown = [params for _, params, _ in node.carried_out if isinstance(params, m.VolumeGrow)]
        assert grown == [m.VolumeGrow(name="v1", size_bytes=2 << 30)]


async def test_a_refusal_has_a_sentence_a_next_step_and_its_code(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        await published(node)
        code, out, err = await cli("volume", "delete", "v1")
        assert (code, out) == (Exit.REJECTED, "")
        assert err == "error: volume 'v1' is in a pair\nnext: delete the pair first\n"
        code, out, err = await cli("--json", "volume", "delete", "v1")
        assert (code, err) == (Exit.REJECTED, "")
        assert json.loads(out)["error"]["code"] == "in_use"
        code, _, err = await cli("volume", "show", "nosuch")
        assert code == Exit.NOT_FOUND
        assert "there is no volume 'nosuch' on any node" in err


async def test_the_kind_of_a_pair_follows_from_its_nodes(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        await cli("pair", "create", "r1", "ctl1/v1", "ctl2/v2", "--mode", "async")
        await cli("pair", "create", "l1", "ctl1/v1", "ctl1/v3", "--rate-limit", "50MiB")
        remote, local = (params for _, params, _ in node.carried_out)
        assert isinstance(remote, m.PairCreate)
        assert isinstance(local, m.PairCreate)
        assert (remote.kind, remote.peer, remote.mode) == ("remote", "ctl2", "async")
        assert (local.kind, local.peer) == ("local", None)
        assert local.rate_limit_bytes_per_s == 50 << 20


async def test_a_remote_pair_is_asked_of_its_p_vol_while_that_is_online(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    s_side = pair_info(node="ctl2", peer="ctl1", role=m.Role.S_VOL)
    async with fake_node(
        broker.address, tmp_path, controller("ctl2"), controller_status("ctl2")
    ) as second:
        second.bus.publish_state("pair", "p1", s_side)
        await second.flushed()
        async with fake_node(broker.address, tmp_path, controller("ctl1")) as first:
            await published(first)
            code, out, _ = await cli("pair", "split", "p1", "--label", "monday", "--json")
            assert code == Exit.OK
            assert json.loads(out)["result"]["state"] == "PSUS"
            asked = first.carried_out[0][1]
            assert isinstance(asked, m.PairSplit)
            assert (asked.name, asked.label, asked.at > 1.7e9) == ("p1", "monday", True)
            assert second.carried_out == []
        code, _, _ = await cli("pair", "resync", "p1", "--reverse", "--force")
        assert code == Exit.OK
        assert second.carried_out[0][1] == m.PairResync(
            name="p1", direction=m.Direction.REVERSE, force=True
        )


async def test_waiting_for_a_pair_tells_progress_and_ends(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    def copying(done: int, left: int) -> m.PairInfo:
        progress = m.Progress(done_bytes=done, left_bytes=left, rate_bytes_per_s=1e6, eta_s=3.0)
        return pair_info(state=m.PairState.COPY, progress=progress)

    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        node.bus.publish_state("pair", "p1", copying(1 << 20, 3 << 20))
        await node.flushed()
        child = await _process(
            "pair", "wait", "p1", "PAIR", TRILUN_BROKER=f"127.0.0.1:{broker.port}"
        )
        assert child.stdout is not None
        line = await asyncio.wait_for(child.stdout.readline(), 20)
        assert line == b"pair p1: COPY  25 % of 4 MiB, 976.6 KiB/s, 3 s left\n"
        node.bus.publish_state("pair", "p1", pair_info())
        out, _ = await asyncio.wait_for(child.communicate(), 20)
        assert out.splitlines()[-1] == b"pair 'p1' is PAIR"
        assert child.returncode == Exit.OK
        code, _, err = await cli("pair", "wait", "p1", "PSUS", "--timeout", "0.2")
        assert code == Exit.TIMEOUT
        assert "not PSUS, after 0.2 s" in err


@pytest.mark.parametrize("state", ["done", "failed"])
async def test_a_restore_is_waited_for_and_its_end_is_the_exit_code(
    broker: Mosquitto, tmp_path: Path, cli: Cli, state: str
) -> None:
    nodes: list[FakeNode] = []
    receipt = m.Receipt(
        job="job1",
        kind=m.JobKind.RESTORE,
        data_set="db",
        files=[m.RestoredFile(path="etc/\x1b[2Jhosts", kind="file", size_bytes=5000)],
        file_bytes=5000,
        verified=True,
    )
    end = job_info(
        state=state,
        step="verify",
        receipt=receipt if state == "done" else None,
        error="" if state == "done" else "mount failed",
        code="ok" if state == "done" else "host_error",
        next_step="" if state == "done" else "look at host2",
    )

    def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        nodes[0].bus.publish_state("job", "job1", end)
        return Answer(result=job_info())

    status = agent_status("host2", "db", "host2")
    async with fake_node(broker.address, tmp_path, canned, status) as node:
        nodes.append(node)
        code, out, err = await cli("restore", "etc/hosts", "--force")
        assert node.carried_out[0][1] == m.RestoreStart(
            data_set="db", paths=["etc/hosts"], force=True
        )
        if state == "done":
            assert (code, err) == (Exit.OK, "")
            assert "etc/�[2Jhosts" in out
            assert "verified" in out
        else:
            assert code == Exit.FAILED
            assert err == "error: job 'job1' failed: mount failed\nnext: look at host2\n"
        code, out, _ = await cli("restore", "etc/hosts", "--no-wait")
        assert (code, out) == (Exit.OK, "job1\n")
        code, out, _ = await cli("job", "show", "job1", "--json")
        assert json.loads(out)["id"] == "job1"


async def test_status_is_one_screen_and_one_document(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    agent = agent_status("host2", "db", "host2")
    async with fake_node(broker.address, tmp_path, controller("host2"), agent) as second:
        second.bus.publish_state("job", "job1", job_info())
        async with fake_node(broker.address, tmp_path, controller("ctl1")) as first:
            await published(first)
            broken = pair_info(
                "p2", state=m.PairState.PSUE, reason="link lost", next_step="start ctl2"
            )
            first.bus.publish_state("pair", "p2", broken)
            async with asyncio.timeout(5):
                out = ""
                while "job1" not in out or "link lost" not in out:
                    _, out, _ = await cli("status")
            assert "! pair ctl1/p2: link lost\n  next: start ctl2\n" in out
        _, out, _ = await cli("status", "--json")
        document: dict[str, list[dict[str, Any]]] = json.loads(out)
        online = {n["node"]: n["online"] for n in document["nodes"]}
        assert online == {"ctl1": False, "host2": True}
        assert {p["name"] for p in document["pairs"]} == {"p1", "p2"}


async def test_without_a_broker_it_is_unreachable(
    stopped_broker: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--broker", f"127.0.0.1:{stopped_broker.port}", "volume", "list"]
    code = await asyncio.to_thread(run, args)
    assert code == Exit.UNREACHABLE
    err = capsys.readouterr().err
    assert err.startswith(f"error: no broker at 127.0.0.1:{stopped_broker.port}")
    assert "\nnext: " in err


# A test run in the background has SIGINT ignored, and its children inherit that.
CHILD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from controller.cli.main import main
main()
"""


async def _process(*args: str, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | env,
    )  # fmt: skip


async def test_ctrl_c_says_that_the_job_goes_on(broker: Mosquitto, tmp_path: Path) -> None:
    def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return Answer(result=job_info(node="host1", kind=m.JobKind.BACKUP))

    status = agent_status("host1", "db", "host1")
    async with fake_node(broker.address, tmp_path, canned, status):
        address = f"127.0.0.1:{broker.port}"
        child = await _process("backup", TRILUN_BROKER=address)
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), 20) == b"backup job1: copy\n"
        child.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(child.communicate(), 20)
        assert child.returncode == Exit.INTERRUPTED
        assert err.lstrip() == b"error: job 'job1' goes on\nnext: trilun job wait job1\n"


async def test_a_watched_status_shows_changes_until_ctrl_c(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        child = await _process("status", "--watch", TRILUN_BROKER=f"127.0.0.1:{broker.port}")
        assert child.stdout is not None
        async with asyncio.timeout(20):
            assert (await child.stdout.readline()).startswith(b"NODE")
            node.bus.publish_state("volume", "fresh", volume_info("fresh"))
            while b"fresh" not in await child.stdout.readline():
                pass
            child.send_signal(signal.SIGINT)
            _, err = await child.communicate()
        assert child.returncode == Exit.INTERRUPTED
        assert err.strip() == b""


async def test_on_a_terminal_a_bar_is_drawn(broker: Mosquitto, tmp_path: Path) -> None:
    progress = m.Progress(done_bytes=1 << 20, left_bytes=1 << 20, rate_bytes_per_s=1.0, eta_s=1.0)

    asked = asyncio.Event()

    def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        asked.set()
        return Answer(result=job_info(node="host1", progress=progress))

    status = agent_status("host1", "db", "host1")
    main_end, child_end = pty.openpty()
    try:
        async with fake_node(broker.address, tmp_path, canned, status) as node:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "controller.cli.main", "backup",
                stdout=child_end, stderr=child_end,
                env=os.environ | {"TRILUN_BROKER": f"127.0.0.1:{broker.port}", "TERM": "xterm"},
            )  # fmt: skip
            await asyncio.wait_for(asked.wait(), 20)
            done = job_info(node="host1", state=m.JobState.DONE, step="verify", progress=progress)
            node.bus.publish_state("job", "job1", done)
            assert await asyncio.wait_for(child.wait(), 20) == Exit.OK
        drawn = os.read(main_end, 65536).decode()
        assert "━" in drawn
    finally:
        os.close(main_end)
        os.close(child_end)


async def test_completion_offers_names_and_stays_silent(broker: Mosquitto, tmp_path: Path) -> None:
    async def complete(words: str, at: int) -> list[bytes]:
        child = await _process(
            _TRILUN_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(at)
        )
        out, err = await asyncio.wait_for(child.communicate(), 20)
        assert err == b""
        return out.split()

    async with fake_node(broker.address, tmp_path, controller("ctl1")) as node:
        node.bus.publish_state("volume", "v1", volume_info())
        await node.flushed()
        option = f"--broker 127.0.0.1:{broker.port}"
        words = await complete(f"trilun {option} volume show v", 5)
        assert words == [b"plain,v1"]
        words = await complete(f"trilun {option} volume create c", 5)
        assert words == [b"plain,ctl1/"]
    broker.stop()
    assert await complete(f"trilun {option} volume show v", 5) == []
