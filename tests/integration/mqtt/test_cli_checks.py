"""`trilun pair verify` and `pair resolve` against a fake node behind a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Exit, Verdict
from controller.api.verbs import Verb
from controller.service.bus import Answer
from tests.brokers import Mosquitto
from tests.integration.mqtt.test_cli import Cli, cli
from tests.nodes import FakeNode, fake_node, pair_info

pytestmark = pytest.mark.tools
__all__ = ["cli"]

V = m.VerifyState


def found(state: m.VerifyState, differing_bytes: int = 0, **more: object) -> m.VerifyInfo:
    ranges = [{"offset_bytes": 8192, "length_bytes": differing_bytes}] if differing_bytes else []
    fields: dict[str, object] = {
        "state": state,
        "elapsed_s": 1.5,
        "compared_bytes": 1 << 20,
        "differing_bytes": differing_bytes,
        "ranges": ranges,
        "range_count": len(ranges),
    }
    return m.VerifyInfo.model_validate(fields | more)


class Verifying:
    """A controller whose verify ends when the state of the pair has been published."""

    def __init__(self, end: m.VerifyInfo | None) -> None:
        self.end = end
        self.node: FakeNode | None = None

    def __call__(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        assert self.node is not None
        if verb.name == "pair.verify":
            self.node.bus.publish_state("pair", "p1", pair_info(verify=found(V.RUNNING)))
            self.node.bus.publish_state("pair", "p1", pair_info(verify=self.end))
            return Answer(Verdict.ACCEPTED, result=pair_info(verify=found(V.RUNNING)))
        return Answer(Verdict.ACCEPTED, result=pair_info(verify=self.end))


@pytest.mark.parametrize(
    ("end", "code", "says"),
    [
        (found(V.ENDED), Exit.OK, "no difference in 1 MiB"),
        (found(V.ENDED, 4096), Exit.FAILED, "4 KiB differ of 1 MiB"),
        (found(V.ENDED, 4096, repaired=True), Exit.OK, "repaired"),
        (found(V.STOPPED, reason="the link broke"), Exit.FAILED, "stopped (the link broke)"),
        (found(V.ENDED, busy_bytes=4096), Exit.OK, "4 KiB were written each time"),
        (None, Exit.REJECTED, "was restarted"),
    ],
)
async def test_a_verify_is_waited_for_and_its_findings_are_the_exit_code(
    broker: Mosquitto, tmp_path: Path, cli: Cli, end: m.VerifyInfo | None, code: Exit, says: str
) -> None:
    verifying = Verifying(end)
    async with fake_node(broker.address, tmp_path, verifying) as node:
        verifying.node = node
        node.bus.publish_state("pair", "p1", pair_info())
        await node.flushed()
        got, out, err = await cli("pair", "verify", "p1", "--repair", "--rate-limit", "10MiB")
        assert (got, says in out + err) == (code, True), out + err
        if end is not None and end.ranges:
            assert "offset 8192: 4096 bytes" in out
        assert node.carried_out[0][1] == m.PairVerify(
            name="p1", repair=True, rate_limit_bytes_per_s=10 << 20
        )
        got, out, _ = await cli("pair", "verify", "p1", "--json")
        assert got == code
        if end is not None:
            assert json.loads(out)["verify"]["compared_bytes"] == 1 << 20
            _, out, _ = await cli("pair", "show", "p1")
            assert "last verify" in out
        got, out, _ = await cli("pair", "verify", "p1", "--no-wait")
        assert got == Exit.OK
        assert "is being compared" in out


async def test_a_split_brain_is_resolved_by_naming_a_node(
    broker: Mosquitto, tmp_path: Path, cli: Cli
) -> None:
    verifying = Verifying(None)
    async with fake_node(broker.address, tmp_path, verifying) as node:
        verifying.node = node
        node.bus.publish_state("pair", "p1", pair_info())
        await node.flushed()
        got, _, _ = await cli("pair", "resolve", "p1")
        assert got == Exit.USAGE
        got, out, _ = await cli("pair", "resolve", "p1", "--discard", "ctl2", "--force")
        assert got == Exit.OK
        assert "gives up 'ctl2'" in out
        resolve: m.Params = m.PairResolve(name="p1", discard="ctl2", force=True)
        assert node.carried_out[-1][1] == resolve
        for given, direction in (
            ((), None),
            (("--forward",), m.Direction.FORWARD),
            (("--reverse",), m.Direction.REVERSE),
        ):
            await cli("pair", "resync", "p1", *given)
            asked: m.Params = m.PairResync(name="p1", direction=direction)
            assert node.carried_out[-1][1] == asked
