"""What the command prints: aligned tables, one JSON document, or one sentence of error.

Owns stdout and stderr. Must not decide anything. Text that came from elsewhere is stripped of
control characters, so that no file name can play with an operator's terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 4000
"""Columns of a table that isn't printed on a terminal: never wrapped, never cut."""


def console() -> Console:
    """The console on stdout as it is now."""
    out = sys.stdout
    return Console(file=out, highlight=False, width=None if out.isatty() else PIPE_WIDTH)


def clean(text: str) -> str:
    """One line, printable; what isn't becomes the replacement character."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text.replace("\n", " "))


def plain(value: Any) -> Any:
    """JSON-ready data, models taken apart."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """The one JSON document of a command."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_line(text: str) -> None:
    """A line on stdout."""
    click.echo(clean(text))


def print_note(text: str) -> None:
    """A remark on stderr, beside the output proper."""
    click.echo(clean(text), err=True)


def print_error(code: str, message: str, next_step: str, *, as_json: bool) -> None:
    """Say why it didn't work: on stderr, or as a JSON document on stdout."""
    if as_json:
        print_json({"error": {"code": code, "message": message, "next_step": next_step}})
        return
    print_note(f"error: {message}")
    if next_step:
        print_note(f"next: {next_step}")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> Table:
    """Aligned columns; those named in `right` (comma-separated) are flush right."""
    flush_right = set(right.split(","))
    result = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        justify = "right" if heading in flush_right else "left"
        result.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        result.add_row(*(Text(clean(cell)) for cell in row))
    return result


def details(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values, one a line; empty values are left out."""
    result = Table(box=None, pad_edge=False, show_edge=False, show_header=False)
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for name, value in rows:
        if value:
            result.add_row(Text(name), Text(clean(value)))
    return result


def show(*parts: RenderableType) -> None:
    """Print renderables, without the padding that only a terminal needs."""
    out = console()
    if out.is_terminal:
        out.print(Group(*parts))
        return
    with out.capture() as captured:
        out.print(Group(*parts))
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
