"""`trilun backup GROUP`: which agent is asked, what is refused, and what a receipt shows."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.locate import choose_group_agent
from controller.cli.output import console
from controller.cli.receipts import receipt_parts
from hostagent.config import DataSetConfig
from hostagent.jobs.members import members_of
from tests.nodes import controller_status
from tests.unit.hostagent.world import DATA_SET

pytestmark = pytest.mark.plain

S = m.PairState
GROUP = m.GroupInfo(
    name="shop", node="c1", pairs=["data", "log"], states={"data": S.PAIR, "log": S.PAIR}
)


def agent(name: str, *pairs: str, part: str = "host1", **more: object) -> m.NodeStatus:
    refs = [{"name": f"ds-{p}", "part": part, "primary": "c1", "remote_pair": p} for p in pairs]
    return controller_status(name, kind=m.NodeKind.AGENT, data_sets=refs, **more)


def chosen(*agents: m.NodeStatus) -> str:
    return choose_group_agent({each.node: each for each in agents}, GROUP)


def test_the_agent_that_has_the_data_sets_is_asked() -> None:
    others = agent("h2", "data", "log", part="host2"), agent("h3", "other")
    assert chosen(agent("h1", "data", "log"), *others) == "h1"
    # It knows which of its data sets are missing, and says so.
    assert chosen(agent("h1", "data"), *others) == "h1"


@pytest.mark.parametrize(
    ("agents", "code", "says"),
    [
        ([], Code.NOT_FOUND, "data, log"),
        ([agent("h2", "data", "log", part="host2")], Code.NOT_FOUND, "no agent"),
        ([agent("h1", "data"), agent("h3", "log")], Code.WRONG_STATE, "h1: data; h3: log"),
        ([agent("h1", "data", "log", online=False)], Code.UNREACHABLE, "'h1' is offline"),
    ],
)
def test_what_no_one_host_can_freeze_is_refused(
    agents: list[m.NodeStatus], code: Code, says: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        chosen(*agents)
    assert (caught.value.code, bool(caught.value.next_step)) == (code, True)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("agents", "says"),
    [
        ([agent("h1", "data", "log")], "as host2"),
        (
            [agent("h1", "data", part="host2"), agent("h3", "log", part="host2")],
            "h1: data; h3: log",
        ),
    ],
)
def test_what_no_one_host_2_has_is_not_restored(agents: list[m.NodeStatus], says: str) -> None:
    with pytest.raises(RejectedError) as caught:
        choose_group_agent({each.node: each for each in agents}, GROUP, "host2")
    assert says in caught.value.message
    assert caught.value.next_step
    one = agent("h2", "data", "log", part="host2")
    assert choose_group_agent({"h2": one, "h1": agent("h1", "data")}, GROUP, "host2") == "h2"


def of_pair(pair: str, **more: object) -> DataSetConfig:
    fields = {"name": f"ds-{pair}", "remote_pair": pair, "part": "host1", "primary": "c1"}
    return DATA_SET.model_copy(update={**fields, **more})


def test_the_agent_knows_its_data_sets_by_their_pairs() -> None:
    known = [of_pair("log"), of_pair("other"), of_pair("data")]
    assert [each.name for each in members_of(GROUP, known, "h1")] == ["ds-data", "ds-log"]
    with pytest.raises(RejectedError, match="of no data set of 'h1': data, log"):
        members_of(GROUP, known, "h1", "host2")


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ({"remote_pair": "x"}, "of no data set of 'h1': log"),
        ({"part": "host2"}, "of no data set of 'h1': log"),
        ({"primary": "c9"}, "of no data set of 'h1': log"),
        ({"secondary": "c9"}, "several secondaries: c2, c9"),
    ],
)
def test_a_group_of_more_than_this_host_has_is_refused(log: dict[str, object], says: str) -> None:
    known = [of_pair("data"), of_pair("log", **log)]
    with pytest.raises(RejectedError) as caught:
        members_of(GROUP, known, "h1")
    assert says in caught.value.message
    assert caught.value.next_step


def test_a_receipt_has_what_each_data_set_got() -> None:
    members = [
        m.MemberBackup(data_set="ds-data", pair="data-1", frozen_s=0.25),
        m.MemberBackup(data_set="ds-log", pair="log-2", replaced="backup 'x' in 'log-2'"),
    ]
    receipt = m.Receipt(
        job="j", kind=m.JobKind.GROUP_BACKUP, data_set="shop", label="monday", members=members,
        frozen_s=0.25,
    )  # fmt: skip
    out = console()
    with out.capture() as captured:
        for part in receipt_parts(receipt):
            out.print(part)
    text = captured.get()
    for word in ("shop", "monday", "ds-log", "log-2", "backup 'x'", "frozen", "0.25 s"):
        assert word in text, word
