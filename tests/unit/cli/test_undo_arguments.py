"""`trilun restore undo` and `drop-undo`, beside files that may have these names."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.cli import backup as backups
from controller.cli import restore as restoring
from controller.cli import undo as module
from controller.cli.main import cli, run
from controller.cli.names import Ref
from controller.cli.output import console
from controller.cli.receipts import receipt_parts
from controller.cli.session import Session
from tests.nodes import job_info

pytestmark = pytest.mark.plain

JOB = "whole-0123456789"


class Asked(Exception):  # noqa: N818 - what the command would have asked
    def __init__(self, verb: str, params: m.Params) -> None:
        self.verb, self.params = verb, params


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line up to the request it is about."""

    async def find_agent(
        _client: object, part: str, data_set: str | None, _paths: object = ()
    ) -> tuple[str, str]:
        return part, data_set or "only"

    async def find_job(_client: object, ref: Ref) -> m.JobInfo:
        if ref.name != JOB:
            raise RejectedError(Code.NOT_FOUND, "no job")
        return job_info(ref.name).model_copy(update={"data_set": "shop"})

    async def start_job(
        _session: object, _client: object, _node: str, verb: str, params: m.Params, _wait: bool
    ) -> None:
        raise Asked(verb, params)

    class Client:
        async def request(self, _node: str, verb: str, params: m.Params, _timeout_s: float) -> None:
            raise Asked(verb, params)

    def run_here(_session: Session, work: Any) -> Any:
        coroutine = work(Client())
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the command waits for something")

    for target in (module, restoring, backups):
        monkeypatch.setattr(target, "find_agent", find_agent)
        monkeypatch.setattr(target, "start_job", start_job)
    monkeypatch.setattr(module, "find_job", find_job)
    monkeypatch.setattr(Session, "run", run_here)

    def ask(*arguments: str) -> Asked:
        with pytest.raises(Asked) as caught:
            cli.main(list(arguments), standalone_mode=False, obj=Session())
        return caught.value

    return ask


def test_a_job_a_data_set_or_neither(asked: Any) -> None:
    for which, data_set, job in (
        ([], "only", ""),
        (["demo"], "demo", ""),
        ([JOB], "shop", JOB),
        (["restore-abcdefabcd"], "only", "restore-abcdefabcd"),
    ):
        found = asked("restore", "undo", *which)
        assert found.verb == "job.undo"
        assert found.params == m.UndoStart(data_set=data_set, job=job)
        found = asked("restore", "drop-undo", *which)
        assert found.verb == "undo.drop"
        assert found.params == m.UndoDrop(data_set=data_set, job=job)
    found = asked("restore", "undo", "--dry-run", "--force", "--no-undo", "--keep", "2", JOB)
    assert found.params == m.UndoStart(
        data_set="shop", job=JOB, dry_run=True, force=True, undo=m.Undo.NEVER, keep=2
    )


def test_a_restore_says_whether_it_keeps_what_it_overwrites(asked: Any) -> None:
    for option, policy in (
        ([], None),
        (["--undoable"], m.Undo.REQUIRED),
        (["--no-undo"], m.Undo.NEVER),
    ):
        params = asked("restore", "--whole", *option, "demo").params
        assert (params.undo, params.keep, params.data_set) == (policy, None, "demo")
    assert asked("restore", "--whole", "--keep", "0").params.keep == 0


def test_a_file_that_is_called_like_a_command_comes_back(asked: Any) -> None:
    assert asked("restore", "--", "undo").params.paths == ["undo"]
    assert asked("restore", "--from", "x", "undo", "drop-undo").params.paths == [
        "undo",
        "drop-undo",
    ]
    assert asked("restore", "books", "undo").params.paths == ["books", "undo"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["restore", "--undoable", "a"], "only a whole volume is kept for an undo"),
        (["restore", "--keep", "1", "a"], "only a whole volume is kept for an undo"),
        (["restore", "--whole", "--keep", "33"], "33 is not in the range"),
        (["restore", "undo", "a", "b"], "unexpected extra argument"),
        (["backup", "--label", f"before-{JOB}"], "can be undone"),
    ],
)
def test_what_cannot_be_meant(
    asked: Any, capsys: pytest.CaptureFixture[str], line: list[str], says: str
) -> None:
    assert run(["--json", *line]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert says in error["message"]
    assert "PATH... --help" not in error["next_step"]


def test_help_of_a_restore_is_that_of_files_and_names_the_rest() -> None:
    result = CliRunner().invoke(cli, ["restore", "--help"], obj=Session())
    assert result.exit_code == 0
    assert result.output.startswith("Usage: cli restore [OPTIONS] PATH...\n")
    for words in ("--conflict", "--whole", "--no-undo", "trilun restore undo --help"):
        assert words in result.output


def test_completion_offers_commands_options_jobs_and_data_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "complete_job", lambda *_: [JOB, "backup-0123456789"])
    monkeypatch.setattr(module, "complete_data_set", lambda *_: ["demo"])
    context = click.Context(restoring.restore, info_name="restore")

    def offered(command: click.Command, incomplete: str) -> set[str]:
        return {item.value for item in command.shell_complete(context, incomplete)}

    assert {"undo", "drop-undo"} <= offered(restoring.restore, "")
    assert {"--whole", "--undoable", "--no-undo", "--keep"} <= offered(restoring.restore, "--")
    which = next(each for each in module.undo.params if each.name == "which")
    assert {item.value for item in which.shell_complete(context, "")} == {JOB, "demo"}


def test_a_slot_that_keeps_an_undo_is_listed_as_what_it_is() -> None:
    info = m.BackupInfo(
        pair="local-2", volume="third-2", state="PSUS", is_backup=True, undo_of=JOB, number=3
    )
    out = console()
    with out.capture() as captured:
        out.print(backups.backup_table([info]))
    assert f"PSUS, before {JOB}" in captured.get()
    assert f"trilun restore undo {JOB}" in captured.get()


def test_a_receipt_names_the_undo() -> None:
    words = f"`trilun restore undo {JOB}` brings back what was overwritten"
    receipt = m.Receipt(job=JOB, kind=m.JobKind.WHOLE, data_set="demo", undo=words)
    out = console()
    with out.capture() as captured:
        for part in receipt_parts(receipt):
            out.print(part)
    assert f"trilun restore undo {JOB}" in " ".join(captured.get().split())


def test_dropping_shows_what_the_slots_are_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slot = m.BackupInfo(pair="local-2", volume="third-2", state="COPY", is_backup=False)
    reply = m.Reply(
        id="1",
        node="host2",
        verdict=Verdict.ACCEPTED,
        code=Code.OK,
        message="'local-2' is free",
        result=m.BackupList(data_set="demo", backups=[slot]).model_dump(mode="json"),
    )
    monkeypatch.setattr(Session, "run", lambda _session, _work: [reply])
    assert run(["restore", "drop-undo", JOB]) == 0
    out = capsys.readouterr().out
    assert out.startswith("'local-2' is free\n")
    assert "COPY, no backup" in out
