"""The command line's own decisions: names, sizes, which agent, what to look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import messages as m
from controller.api.codes import Code, Exit
from controller.api.errors import RejectedError
from controller.cli.locate import choose_agent
from controller.cli.main import run
from controller.cli.names import Ref, nearest_sizes, parse_ref
from controller.cli.output import clean
from controller.cli.session import Session
from controller.cli.status import Overview, attention
from controller.cli.waiting import percent, progress_text
from controller.service.config import Endpoint
from controller.service.mqtt import Broker
from tests.nodes import agent_status, controller_status, pair_info, volume_info

pytestmark = pytest.mark.plain


def agents(*triples: tuple[str, str, str]) -> dict[str, m.NodeStatus]:
    return {node: agent_status(node, data_set, part) for node, data_set, part in triples}


def test_the_only_data_set_needs_no_name() -> None:
    nodes = agents(("h1", "db", "host1"), ("h2", "db", "host2"))
    assert choose_agent(nodes, "host1", None) == ("h1", "db")
    assert choose_agent(nodes, "host2", "db") == ("h2", "db")


@pytest.mark.parametrize(
    ("nodes", "data_set", "code", "says"),
    [
        (agents(("h1", "db", "host1"), ("h3", "web", "host1")), None, Code.BAD_REQUEST, "db, web"),
        (agents(("h1", "db", "host1")), "web", Code.NOT_FOUND, "no agent serves data set 'web'"),
        (agents(("h2", "db", "host2")), None, Code.NOT_FOUND, "as host1"),
        (agents(("h1", "db", "host1"), ("h3", "db", "host1")), "db", Code.WRONG_STATE, "h1, h3"),
        (
            {"h1": agent_status("h1", "db", "host1").model_copy(update={"online": False})},
            None,
            Code.UNREACHABLE,
            "(h1) is offline",
        ),
    ],
)
def test_no_agent_is_guessed(
    nodes: dict[str, m.NodeStatus], data_set: str | None, code: Code, says: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        choose_agent(nodes, "host1", data_set)
    assert caught.value.code is code
    assert says in caught.value.message


def test_an_agent_that_is_away_gives_way_to_one_that_is_there() -> None:
    nodes = agents(("h1", "db", "host1"), ("h3", "db", "host1"))
    nodes["h1"] = nodes["h1"].model_copy(update={"online": False})
    assert choose_agent(nodes, "host1", "db") == ("h3", "db")


def test_refs() -> None:
    assert parse_ref("v1") == Ref("v1")
    assert parse_ref("ctl1/v1") == Ref("v1", "ctl1")
    for bad in ("", "/v1", "ctl1/", "a/b/c", "+/v1"):
        with pytest.raises(ValueError, match="not a valid name"):
            parse_ref(bad)


@given(st.integers(min_value=1, max_value=1 << 50))
def test_the_nearest_sizes_are_near_and_allowed(size_bytes: int) -> None:
    low, high = nearest_sizes(size_bytes)
    assert low % 4096 == high % 4096 == 0
    assert 0 < low <= high <= size_bytes + 4096


@given(st.text())
def test_cleaned_text_is_one_printable_line(text: str) -> None:
    assert clean(text).isprintable()


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_100_per_cent_means_nothing_is_left(done: int, left: int) -> None:
    progress = m.Progress(done_bytes=done, left_bytes=left, rate_bytes_per_s=0, eta_s=None)
    assert (percent(progress) == 100) == (left == 0)
    assert progress_text(progress)


def test_attention_names_reason_and_next_step() -> None:
    found = Overview(
        nodes=[controller_status(peers={"ctl2": False}), controller_status("x", online=False)],
        volumes=[volume_info(healthy=False), volume_info("v2", consistent=False)],
        pairs=[pair_info(reason="link lost", next_step="start ctl2")],
    )
    assert attention(found) == [
        "! ctl1: peer ctl2 is away",
        "! node x is offline; its lines show what it said last",
        "! volume ctl1/v1 has failed",
        "! volume ctl1/v2 is inconsistent",
        "! pair ctl1/p1: link lost",
        "  next: start ctl2",
    ]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["volume", "create", "ctl1/v1", "5000"], "the nearest: 4096 and 8192"),
        (["volume", "create", "ctl1/v1", "100"], "the nearest: 4096"),
        (["volume", "create", "ctl1/v1", "1GB"], "ambiguous"),
        (["volume", "create", "ctl1/v1", "0"], "a volume has"),
        (["volume", "create", "ctl1/v1", "1GiB", "--node", "ctl2"], "different nodes"),
        (["pair", "create", "p", "v1", "ctl2/v2"], "lacks its node"),
        (["pair", "create", "p/q", "ctl1/v1", "ctl2/v2"], "name: must match"),
        (["pair", "wait", "p", "HAPPY"], "HAPPY"),
        (["pair", "split", "p", "--label", "x" * 200], "label: must have at most 128 characters"),
        (["restore"], "PATH"),
        (["--broker", "a:b:c", "status"], "host:port"),
        (["nonsense"], "nonsense"),
        (["status", "--watch"], "--watch and --json"),
    ],
)
def test_usage_errors_exit_2_with_one_sentence(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*args, "--json"]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert err == ""
    error = json.loads(out)["error"]
    assert error["code"] == "bad_request"
    assert says in error["message"]
    if "--watch" in args:
        return
    assert run(args) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


def test_help_and_version_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == Exit.OK
    assert run(["pair", "wait", "--help"]) == Exit.OK
    assert run(["completion", "zsh"]) == Exit.OK
    assert "_TRILUN_COMPLETE" in capsys.readouterr().out
    assert run([]) == Exit.USAGE


def test_the_broker_comes_from_the_option_then_the_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush\n")
    secret.chmod(0o600)
    config = tmp_path / "cli.toml"
    config.write_text(f'[broker]\nhost = "b"\nusername = "op"\npassword_file = "{secret}"\n')
    from_file = Session(config=config).address()
    assert (from_file.host, from_file.port, from_file.username) == ("b", 1883, "op")
    assert from_file.password is not None
    assert "hush" not in repr(from_file)
    named = Session(broker=Endpoint("c", 1884), config=config).address()
    assert named == Broker("c", 1884)


def test_a_broken_config_file_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cli.toml"
    config.write_text("[broker]\nprot = 1\n")
    assert run(["--config", str(config), "status"]) == Exit.USAGE
    assert f"{config}: broker.prot: is not known; did you mean 'port'?" in capsys.readouterr().err
