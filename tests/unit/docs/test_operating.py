"""docs/operating.md: its patterns find what it says, its commands and tables are the program's."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path, PurePosixPath

import click
import pytest

from controller.api import messages as m
from controller.api.looking import MAX_CAT_BYTES, MAX_PIECE_BYTES
from controller.api.restores import DEADLINE_S as RESTORE_DEADLINE_S
from controller.api.restores import MAX_PATHS, Conflict
from controller.api.undo import undo_label
from controller.cli.main import cli
from controller.cli.output import console
from controller.cli.receipts import members_table, restored_table
from hostagent.copying.comparing import MAX_CONFLICTS
from hostagent.copying.content import Work
from hostagent.copying.patterns import MAX_VISITED, asked_path, expand
from hostagent.copying.placing import Placing
from hostagent.jobs.engine import MAX_ENDED
from hostagent.jobs.group_backup import DEADLINE_S, GROUP_BACKUP
from hostagent.jobs.group_restore import GROUP_RESTORE
from hostagent.jobs.whole import WHOLE

pytestmark = pytest.mark.plain

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/operating.md").read_text(encoding="utf-8")


def section(heading: str, page: str = PAGE) -> str:
    """A section with everything beneath it."""
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE
    )
    assert found, heading
    return found.group(1)


FILES, LOOK = section("Files"), section("Look into a backup")
_, _, _GROUPS = section("Backups").partition("### Several data sets at one instant")
GROUPS, _, GROUPS_BACK = _GROUPS.partition("### Several data sets back to one instant")
WHOLE_VOLUME, UNDO = section("The whole volume"), section("Undo a restore")
PATTERNS = re.findall(r"^\| `([^`]+)` \| ((?:`[^`]+` ?)+)\|$", FILES, re.MULTILINE)


def test_each_flow_has_a_test_to_its_end_and_one_that_stops_half_way() -> None:
    testing = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    tested = section("The flows and their tests", testing)
    rows = [line.strip("| ").split(" | ") for line in tested.splitlines() if line[:1] == "|"][2:]
    flows = re.findall(r"^\| ([^|]+) \|", section("Flows"), re.MULTILINE)[1:]
    assert [flow for flow, *_ in rows] == flows
    for _, *cells in rows:
        for test in "; ".join(cells).split("; "):
            file, name = re.fullmatch(r"`([\w/]+\.py)` (\w+)", test).groups()  # type: ignore[union-attr]
            tests = ROOT / "tests"
            path = tests / file if (tests / file).exists() else tests / "integration" / file
            assert f"def test_{name}(" in path.read_text(encoding="utf-8"), test


def test_the_patterns_are_there() -> None:
    assert len(PATTERNS) == 8


@pytest.mark.parametrize(("pattern", "found"), PATTERNS)
def test_each_pattern_finds_what_the_page_says(tmp_path: Path, pattern: str, found: str) -> None:
    for directory in ("books/old", "odd[1]"):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("books/a.dat", "books/b.txt", "books/.c.dat", "books/old/d.dat", "star*", "star1"):
        (tmp_path / name).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        asked = asked_path(pattern, PurePosixPath("/srv/demo"))
        names = expand(fd, [asked], Work(lambda _: None, lambda: False)).names
    finally:
        os.close(fd)
    assert sorted(names) == sorted(re.findall(r"`([^`]+)`", found))


@pytest.mark.parametrize(
    "line",
    re.findall(r"^    (trilun .*)$", FILES + LOOK + GROUPS + GROUPS_BACK + UNDO, re.MULTILINE),
)
def test_each_command_is_one(line: str) -> None:
    words = shlex.split(re.sub(r"[\[\]]", "", line) if "[" in line else line)[1:]
    words = ["1MiB" if word == "SIZE" else word for word in words]
    command: click.Command = cli
    context: click.Context | None = None
    while isinstance(command, click.Group):
        context = command.make_context(command.name, words, parent=context)
        # A group may put the command that it stands for in front of its arguments.
        words = [*context._protected_args, *context.args]
        _, found, words = command.resolve_command(context, words)
        assert found is not None, line
        command = found
    command.make_context(command.name, words, parent=context)


def test_the_steps_of_a_whole_volume_are_all_there() -> None:
    named = re.findall(r"^\| ([a-z-]+(?:, [a-z-]+)?) \|", WHOLE_VOLUME, re.MULTILINE)
    steps = [step for row in named[1:] for step in row.split(", ")]
    assert steps == [name for name in WHOLE.names if name != "receipt"]


def test_the_undo_is_the_programs() -> None:
    assert f"labelled `{undo_label('JOB')}`" in UNDO
    options = set(re.findall(r"^\| `(--[a-z-]+)", UNDO, re.MULTILINE))
    assert isinstance(cli.commands["restore"], click.Group)
    taken = cli.commands["restore"].commands["undo"].params
    assert options <= {name for each in taken for name in (*each.opts, *each.secondary_opts)}
    assert options == {"--undoable", "--no-undo", "--keep"}


def test_the_steps_of_a_groups_backup_are_its_tables() -> None:
    named = re.findall(r"^\| ([a-z-]+) \|", GROUPS, re.MULTILINE)
    assert [name for name in named if name != "step"] == GROUP_BACKUP.names[:-1]
    assert GROUP_BACKUP.names[-1] == "receipt"
    assert f"({DEADLINE_S:.0f} s with" in GROUPS


def test_the_steps_of_a_groups_restore_are_its_tables() -> None:
    named = re.findall(r"^\| ([a-z-]+(?:, [a-z-]+)?) \|", GROUPS_BACK, re.MULTILINE)
    steps = [step for row in named[1:] for step in row.split(", ")]
    assert steps == [name for name in GROUP_RESTORE.names if name != "receipt"]
    assert f"{RESTORE_DEADLINE_S:.0f} s from `release`" in GROUPS_BACK


def test_what_the_receipt_of_a_groups_restore_shows() -> None:
    example = re.search(r"```text restored\n(.*?)```", GROUPS_BACK, re.DOTALL)
    assert example
    more = {"second_union_bytes": 0, "discarded_bytes": 0, "payload_bytes": 0, "released_s": 4.31}
    restored = [
        m.MemberRestore.model_validate(
            {
                "data_set": name,
                "backup_pair": f"{name}-local",
                "undo_pair": f"{name}-local-2",
                "union_bytes": union,
                "wire_bytes": wire,
                **more,
            }
        )
        for name, union, wire in (("demo", 2_200_000, 2_201_000), ("log", 348_160, 349_184))
    ]
    out = console()
    with out.capture() as captured:
        out.print(restored_table(restored))
    shown = [line.rstrip() for line in captured.get().splitlines()]
    assert shown == example.group(1).splitlines()


def test_what_a_groups_receipt_shows() -> None:
    example = re.search(r"```text members\n(.*?)```", GROUPS, re.DOTALL)
    assert example
    replaced = "backup 'friday' in 'demo-local'"
    members = [
        m.MemberBackup(data_set="demo", pair="demo-local", replaced=replaced, frozen_s=0.092),
        m.MemberBackup(data_set="log", pair="log-local-2", frozen_s=0.087),
    ]
    out = console()
    with out.capture() as captured:
        out.print(members_table(members))
    shown = [line.rstrip() for line in captured.get().splitlines()]
    assert shown == example.group(1).splitlines()


def test_the_policies_are_all_there() -> None:
    named = re.findall(r"^\| `([a-z][a-z-]+)`(?: \(default\))? \|", FILES, re.MULTILINE)
    assert [Conflict(name) for name in named] == list(Conflict)
    assert "`keep-both` (default)" in FILES
    assert Placing("JOB").kept_name("NAME") in FILES


def test_the_limits_are_the_programs() -> None:
    assert f"At most {MAX_PATHS:,} files" in " ".join(FILES.split())
    assert f"At most {MAX_CONFLICTS:,} can be kept" in FILES
    assert MAX_VISITED == 1_000_000
    assert f"the last {MAX_ENDED} that have ended" in FILES
    assert f"pieces of {MAX_PIECE_BYTES >> 10} KiB" in LOOK
    assert f"larger than {MAX_CAT_BYTES >> 20} MiB" in LOOK
