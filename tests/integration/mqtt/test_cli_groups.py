"""`trilun group …`, `pair takeover` and `pair swap`: who is asked what, against fake nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Exit, Verdict
from controller.api.verbs import Verb
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.integration.mqtt.test_cli import Cli, cli
from tests.nodes import FakeNode, controller_status, fake_node, pair_info

pytestmark = pytest.mark.tools
__all__ = ["cli"]

S = m.PairState
GROUP = m.GroupInfo(
    name="g", node="ctl1", pairs=["p1", "p2"], states={"p1": S.PAIR, "p2": S.COPY}, dirty_bytes=4096
)


def controller(node: str, *groups: m.GroupInfo) -> Callable[[Verb, m.Params, m.Request], Answer]:
    """A controller with these groups; p2 is in sync the second time it is looked at."""
    looks = 0

    def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        nonlocal looks
        del request
        if verb.name == "group.list":
            looks += 1
            late = {"states": {"p1": S.PAIR, "p2": S.PAIR}} if looks > 1 else {}
            return Answer(result=m.GroupList(groups=[g.model_copy(update=late) for g in groups]))
        if verb.name.startswith("group."):
            return Answer(Verdict.ACCEPTED, result=GROUP)
        return Answer(Verdict.ACCEPTED, result=pair_info(getattr(params, "name", "p1"), node))

    return canned


async def publish(node: FakeNode, *infos: m.PairInfo) -> None:
    for info in infos:
        node.bus.publish_state("pair", info.name, info)
    await node.flushed()


async def test_groups(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1", GROUP)) as node:
        await publish(node, pair_info("p1"), pair_info("p2"))
        code, out, _ = await cli("group", "list")
        assert (code, out.split()[:4]) == (Exit.OK, ["GROUP", "NODE", "PAIR", "STATE"])
        code, out, _ = await cli("group", "show", "g", "--json")
        assert json.loads(out)["group"]["pairs"] == ["p1", "p2"]
        for words, asked in (
            (("create", "h", "p1", "p2"), m.GroupCreate(name="h", pairs=["p1", "p2"])),
            (("resync", "g", "--reverse", "--force"),
             m.GroupResync(name="g", direction=m.Direction.REVERSE, force=True)),
            (("delete", "ctl1/g"), m.Named(name="g")),
        ):  # fmt: skip
            code, _, err = await cli("group", *words)
            assert (code, err) == (Exit.OK, "")
            assert node.carried_out[-1][1] == asked
        code, _, _ = await cli("group", "split", "g", "--label", "monday", "--deadline", "7")
        verb, params, _ = node.carried_out[-1]
        assert (code, verb) == (Exit.OK, "group.split")
        assert isinstance(params, m.GroupSplit)
        assert (params.label, params.deadline_s, params.at > 1e9) == ("monday", 7.0, True)


async def test_waiting_for_a_group(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1", GROUP)):
        code, out, _ = await cli("group", "wait", "g", "PAIR")
        assert (code, out.splitlines()[-1]) == (Exit.OK, "group 'g' is PAIR")
        assert "1 of 2 PAIR" in out
        code, _, err = await cli("group", "wait", "g", "PSUS", "--timeout", "0.1")
        assert code == Exit.TIMEOUT
        assert "p1, p2" in err


async def test_a_group_that_isnt_there_or_is_there_twice(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    async with fake_node(broker.address, tmp_path, controller("ctl1", GROUP)):
        code, _, err = await cli("group", "show", "h")
        assert (code, "trilun group list" in err) == (Exit.NOT_FOUND, True)
        twin = GROUP.model_copy(update={"node": "ctl2"})
        two = tmp_path / "two"
        two.mkdir()
        status = controller_status("ctl2")
        async with fake_node(broker.address, two, controller("ctl2", twin), status):
            code, _, err = await cli("group", "show", "g")
            assert (code, "ctl1/g, ctl2/g" in err) == (Exit.USAGE, True)
            code, _, _ = await cli("group", "show", "ctl2/g")
            assert code == Exit.OK


async def test_roles(broker: Mosquitto, tmp_path: Path, cli: Cli) -> None:
    """A takeover is asked of the S-VOL's side, also when the P-VOL's node is there."""
    two = tmp_path / "two"
    two.mkdir()
    status = controller_status("ctl2")
    async with (
        fake_node(broker.address, tmp_path, controller("ctl1")) as p,
        fake_node(broker.address, two, controller("ctl2"), status) as s,
    ):
        await publish(p, pair_info("p1"))
        side = {"role": m.Role.S_VOL, "peer": "ctl1"}
        await publish(s, pair_info("p1", "ctl2", state=S.PSUE, **side))
        code, _, _ = await cli("pair", "takeover", "p1")
        assert (code, s.carried_out[-1][0]) == (Exit.OK, "pair.takeover")
        code, _, _ = await cli("pair", "swap", "p1", "--to", "ctl2")
        assert (code, p.carried_out[-1][0]) == (Exit.OK, "pair.swap")
        await publish(s, pair_info("p1", "ctl2", state=S.SSWS, **side))
        code, _, _ = await cli("pair", "swap", "p1", "--to", "ctl2")
        assert code == Exit.OK
        assert s.carried_out[-1][1] == m.PairSwap(name="p1", to="ctl2")
        # Where the first's hosts may not write because a swap was cut off, it is the one to ask.
        for state in (S.SSWS, S.PSUE):
            claims = {"role": m.Role.P_VOL, "peer": "ctl1"} if state is S.PSUE else side
            await publish(s, pair_info("p1", "ctl2", state=state, **claims))
            await publish(p, pair_info("p1", state=S.PSUE))
            code, _, _ = await cli("pair", "swap", "p1", "--to", "ctl1", "--force")
            assert code == Exit.OK
            assert p.carried_out.pop()[1] == m.PairSwap(name="p1", to="ctl1", force=True)
        await publish(s, pair_info("p1", "ctl2", state=S.SSWS, **side))
        code, _, err = await cli("pair", "swap", "p1")
        assert (code, "--to" in err) == (Exit.USAGE, True)
        code, _, _ = await cli("pair", "split", "p1", "--writable")
        split = p.carried_out[-1][1]
        assert isinstance(split, m.PairSplit)
        assert split.writable
