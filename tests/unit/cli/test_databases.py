"""How databases are shown, and when their check ends the command with a failure."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from controller.api import messages as m
from controller.cli.databases import database_parts, db
from controller.cli.receipts import receipt_parts

GOOD = m.DatabaseInfo(
    name="main",
    kind="postgresql",
    path="pg/15/main",
    state=m.DatabaseState.GOOD,
    done="amcheck of 544 tables and indexes",
    recover_s=3.2,
    check_s=1.8,
)
FAILED = GOOD.model_copy(
    update={"state": m.DatabaseState.FAILED, "error": "page 7 is torn", "next_step": "mend it"}
)


def shown(databases: list[m.DatabaseInfo]) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(*database_parts(databases), sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_the_table_is_the_one_in_the_manual() -> None:
    manual = (Path(__file__).parents[3] / "docs/operating.md").read_text(encoding="utf-8")
    assert shown([GOOD]) in manual


def test_what_failed_is_told_with_its_next_step() -> None:
    text = shown([FAILED])
    assert "page 7 is torn" in text
    assert "mend it" in text


def test_a_receipt_shows_its_databases() -> None:
    receipt = m.Receipt(job="r-1", kind=m.JobKind.RESTORE, data_set="ds", databases=[FAILED])
    with (console := Console(width=120)).capture() as capture:
        console.print(*receipt_parts(receipt))
    assert "page 7 is torn" in capture.get()


@pytest.mark.parametrize("name", ["show", "check"])
def test_the_commands_are_there(name: str) -> None:
    assert db.commands[name].help
