"""`trilun backup` with and without its command's name, and what `--whole` makes of PATH."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner

from controller.api import messages as m
from controller.cli import backup as module
from controller.cli import jobs
from controller.cli import restore as restoring
from controller.cli.main import cli, run
from controller.cli.names import Ref
from controller.cli.output import console
from controller.cli.receipts import plan_parts, receipt_parts
from controller.cli.session import Session
from tests.nodes import job_info

pytestmark = pytest.mark.plain


class Asked(Exception):  # noqa: N818 - what the command would have asked
    def __init__(self, verb: str, params: m.Params) -> None:
        self.verb, self.params = verb, params


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line up to the request that starts its job."""

    async def find_agent(
        _client: object, part: str, data_set: str | None, _paths: object = ()
    ) -> tuple[str, str]:
        return part, data_set or "only"

    async def start_job(
        _session: object, _client: object, _node: str, verb: str, params: m.Params, _wait: bool
    ) -> None:
        raise Asked(verb, params)

    def run_here(_session: Session, work: Any) -> Any:
        coroutine = work(None)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the command waits for something")

    async def find_job(_client: object, ref: Ref) -> m.JobInfo:
        return job_info(ref.name)

    for target in (module, restoring):
        monkeypatch.setattr(target, "find_agent", find_agent)
    for starter in (module, restoring, jobs):
        monkeypatch.setattr(starter, "start_job", start_job)
    monkeypatch.setattr(jobs, "find_job", find_job)
    monkeypatch.setattr(Session, "run", run_here)

    def ask(*arguments: str) -> Any:
        with pytest.raises(Asked) as caught:
            cli.main(list(arguments), standalone_mode=False, obj=Session())
        return caught.value.params

    return ask


@pytest.mark.parametrize("name", [[], ["take"]])
def test_a_backup_needs_no_command_name(asked: Any, name: list[str]) -> None:
    assert asked("backup", *name) == m.BackupStart(data_set="only")
    assert asked("backup", *name, "demo", "--label", "x") == m.BackupStart(
        data_set="demo", label="x"
    )
    params = asked("backup", *name, "--keep", "2", "--no-quiesce", "--split-remote", "demo")
    assert (params.keep, params.quiesce, params.split_remote) == (2, False, True)
    assert asked("backup", *name, "demo", "--quick").quick


def test_a_data_set_called_list_has_its_way(asked: Any) -> None:
    assert asked("backup", "take", "list").data_set == "list"


def test_help_is_the_groups() -> None:
    result = CliRunner().invoke(cli, ["backup", "--help"], obj=Session())
    assert result.exit_code == 0
    assert "list" in result.output
    assert "take" in result.output


def test_a_restore_names_its_backup(asked: Any) -> None:
    params = asked("restore", "--from", "monday", "a", "b")
    assert (params.paths, params.from_backup, params.whole) == (["a", "b"], "monday", False)


def test_a_whole_volume_has_no_paths(asked: Any) -> None:
    for line in (["demo"], ["--data-set", "demo"]):
        params = asked("restore", "--whole", *line)
        assert (params.data_set, params.paths, params.whole) == ("demo", [], True)
    assert asked("restore", "--whole").data_set == "only"


def test_a_whole_volume_is_compared_where_that_is_asked(asked: Any) -> None:
    assert asked("restore", "--whole", "--verify", "demo").verify
    assert not asked("restore", "--whole", "demo").verify
    receipt = m.Receipt(
        job="j", kind=m.JobKind.WHOLE, data_set="d", whole="asked", verified=True,
        compared_bytes=2 << 30,
    )  # fmt: skip
    out = console()
    with out.capture() as captured:
        for part in receipt_parts(receipt):
            out.print(part)
    assert "yes, 2 GiB compared by digest" in captured.get()


def test_a_job_is_gone_on_with(asked: Any) -> None:
    assert asked("job", "resume", "whole-1") == m.Named(name="whole-1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["restore"], "Missing argument"),
        (["restore", "--whole", "a", "b"], "takes no files"),
        (["restore", "--whole", "--data-set", "d", "a"], "takes no files"),
        (["backup", "--keep", "33"], "33 is not in the range"),
        (["backup", "a/b/c"], "not a valid name"),
    ],
)
def test_what_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], line: list[str], says: str
) -> None:
    assert run(["--json", *line]) == 2
    assert says in json.loads(capsys.readouterr().out)["error"]["message"]


def printed(parts: list[Any]) -> str:
    out = console()
    with out.capture() as captured:
        for part in parts:
            out.print(part)
    return captured.get()


def test_backups_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    slots = [
        m.BackupInfo(
            pair="local-2",
            volume="third-2",
            state="PSUS",
            is_backup=True,
            label="monday",
            taken_at=1.7e9,
            number=3,
            dirty_bytes=4096,
        ),
        m.BackupInfo(pair="local", volume="third", state="PAIR", is_backup=False),
        m.BackupInfo(
            pair="local-3",
            volume="third-3",
            state="PSUS",
            is_backup=True,
            behind=True,
            dirty_bytes=4096,
        ),
    ]
    text = printed([module.backup_table(slots)])
    first, second, third = (line.split() for line in text.splitlines()[1:])
    assert "PSUS, being copied -" in " ".join(third), "marks stand for what isn't copied, too"
    assert first[:3] == ["local-2", "third-2", "monday"]
    assert "2023-11-14 22:13:20 UTC" in text
    assert "trilun restore --from local-2 PATH..." in text
    assert second[:2] == ["local", "third"]
    assert "PAIR, no backup" in text


def test_a_whole_restore_says_so_before_and_after() -> None:
    plan = m.RestorePlan(
        data_set="demo",
        backup_pair="local",
        backup_label="monday",
        backup_at=1.7e9,
        whole="the whole volume was asked for",
        second_union_bytes=8192,
        files=[],
        missing=[],
        bytes_to_copy=8192,
        direction=m.Direction.REVERSE,
        rule="because",
        starting_point="in_sync",
        overwritten_bytes=8192,
        union_bytes=8192,
        eta_s=5.0,
        steps=["plan"],
    )
    text = printed(plan_parts(plan))
    assert "'monday' local of 2023-11-14 22:13:20 UTC" in text
    assert "the whole volume was asked for" in text
    assert "--conflict" not in text
    receipt = m.Receipt(
        job="whole-1",
        kind=m.JobKind.WHOLE,
        data_set="demo",
        whole="the whole volume was asked for",
        second_union_bytes=8192,
    )
    text = printed(receipt_parts(receipt))
    assert "8 KiB differed" in text
    assert "released" in text


def test_completion_offers_commands_and_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "complete_data_set", lambda *_: ["demo"])
    monkeypatch.setattr(module, "complete_group", lambda *_: ["shop"])
    context = click.Context(module.backup)
    offered = {item.value for item in module.backup.shell_complete(context, "")}
    assert offered >= {"take", "list", "demo", "shop"}
