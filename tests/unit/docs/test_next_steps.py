"""The commands that next steps name: each is one that the program takes, with what it needs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from controller.cli.main import cli

pytestmark = pytest.mark.plain

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("controller", "hostagent")
QUOTED = re.compile(r"(?<![\w'/.-])(?<!\ba )(?<!\bA )trilun (?=[a-z-])([^;`()|\n]*)")
"""A command and what follows it in its sentence."""
STAND_IN = "NAME"
SIZE = "1GiB"


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text of a module but docstrings, with a name where a value is put in."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield node.lineno, filled(node)
        elif id(node) not in skipped and isinstance(node, ast.Constant):
            yield node.lineno, re.sub(r"\{\w+\}", STAND_IN, str(node.value))


def filled(text: ast.JoinedStr) -> str:
    """An f-string; a value that goes on with a word is an option that may be left out."""
    said = ""
    for part in text.values:
        if isinstance(part, ast.Constant):
            said += str(part.value)
        elif not (said and said[-1].isalnum()):
            said += SIZE if "bytes" in ast.unparse(part) else STAND_IN
    return said


def quoted(path: Path) -> Iterator[tuple[str, str]]:
    """Where a command stands, and the command with the words behind it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, text in texts(tree):
        for found in QUOTED.finditer(text):
            yield f"{path.relative_to(ROOT)}:{line}", found.group(1)


def taken(words: list[str]) -> bool:
    """Whether the program takes these words as they are."""
    command: click.Command = cli
    context: click.Context | None = None
    try:
        while isinstance(command, click.Group):
            context = command.make_context(command.name, list(words), parent=context)
            words = [*context._protected_args, *context.args]
            _, found, words = command.resolve_command(context, words)
            assert found is not None
            command = found
        command.make_context(command.name, list(words), parent=context)
    except click.exceptions.Exit:
        # --help
        return True
    except click.exceptions.ClickException:
        return False
    return True


def wrong(sentence: str) -> str:
    """What is wrong with a command in a sentence; nothing when all it begins with is taken.

    A sentence goes on behind a command: the longest beginning that is taken is the command. An
    option right behind that is one of its own, and not taken.
    """
    parts = sentence.replace("'", " ").split()
    for count in range(len(parts), 0, -1):
        words = [SIZE if part.startswith("SIZE") else part.rstrip(",.:") for part in parts[:count]]
        if any(part.endswith((",", ":")) for part in parts[: count - 1]):
            continue
        if taken(shlex.split(" ".join(words))):
            behind = parts[count : count + 1]
            return f"'{behind[0]}' is not taken" if behind and behind[0][:2] == "--" else ""
    return "it is no command"


COMMANDS = [
    each
    for folder in SOURCES
    for path in sorted((ROOT / folder).rglob("*.py"))
    for each in quoted(path)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 100


def test_each_command_in_a_next_step_is_one() -> None:
    found = [
        f"{where}: trilun {sentence.strip()}: {why}"
        for where, sentence in COMMANDS
        if (why := wrong(sentence))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "pair swap NAME",
        "pair swap NAME and then something",
        "pair create",
        "pair resync NAME --revers",
        "pair resync NAME --forward --all, or",
        "nothing",
        "restore drop-undo NAME --now",
    ],
)
def test_what_is_no_command_is_found(sentence: str) -> None:
    assert wrong(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "pair swap NAME --to NODE --force",
        "pair list shows what there is",
        "pair wait NAME PAIR, split it, then reverse",
        "pair resync NAME --reverse, or use --force",
    ],
)
def test_what_is_one_is_taken(sentence: str) -> None:
    assert not wrong(sentence)
