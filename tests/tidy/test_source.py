"""Rules for the source that no linter knows.

Each rule is a function from one file to its findings, so that the rules are tested, too.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.plain

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("controller", "targets", "hostagent", "tests", "deploy")
TEXT_FOLDERS = (*PACKAGES, "docs", "systemd")
TEXT_SUFFIXES = {".py", ".md", ".sh", ".toml", ".service", ".conf", ".txt", ".yml", ".yaml", ""}

MAX_MODULE_LINES = 400
HARD_MODULE_LINES = 500
LONGER_MODULES: dict[str, str] = {
    "controller/api/messages.py": "the contract reads best in one piece",
}
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
LEFTOVERS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(wo" + r"rk|ro" + r"ot|Us" + r"ers)/")

Finding = str
Rule = Callable[[str, str], Iterator[Finding]]


def module_length(path: str, text: str) -> Iterator[Finding]:
    """A module is at most 400 lines; a module of tests or a listed exception at most 500."""
    lines = text.count("\n")
    longer = path in LONGER_MODULES or path.startswith("tests/")
    limit = HARD_MODULE_LINES if longer else MAX_MODULE_LINES
    if lines > limit:
        yield f"{path}: {lines} lines, more than {limit}"


def function_length(path: str, text: str) -> Iterator[Finding]:
    """A function is at most 60 lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines"


def opening_docstring(path: str, text: str) -> Iterator[Finding]:
    """Every module that holds anything opens with a docstring."""
    if text.strip() and ast.get_docstring(ast.parse(text)) is None:
        yield f"{path}: no docstring at its beginning"


def telling_name(path: str, text: str) -> Iterator[Finding]:
    """A module's name says what it owns."""
    parts = Path(path).with_suffix("").parts
    yield from (f"{path}: '{part}' says nothing" for part in parts if part in VAGUE_NAMES)


def kept_tasks(path: str, text: str) -> Iterator[Finding]:
    """The result of create_task is kept, or the task may be collected while it runs."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
            continue
        function = node.value.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        if name in {"create_task", "ensure_future"} and not _is_group(owner):
            yield f"{path}:{node.lineno}: the result of {owner}.{name} is dropped"


def _is_group(owner: str) -> bool:
    return owner in {"tg", "group", "tasks"} or owner.endswith("group")


def no_leftovers(path: str, text: str) -> Iterator[Finding]:
    """Nothing is left for later."""
    for number, line in enumerate(text.splitlines(), 1):
        if LEFTOVERS.search(line):
            yield f"{path}:{number}: {line.strip()}"


def no_machine_paths(path: str, text: str) -> Iterator[Finding]:
    """Nothing points into one developer's machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATHS.search(line) or str(ROOT) in line:
            yield f"{path}:{number}: {line.strip()}"


def next_steps(path: str, text: str) -> Iterator[Finding]:
    """Whoever is refused something is told what would make it possible."""
    if not path.startswith(("controller/", "hostagent/")):
        return
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "RejectedError":
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        step = node.args[2] if len(node.args) > 2 else named.get("next_step")
        if step is None or (isinstance(step, ast.Constant) and not step.value):
            yield f"{path}:{node.lineno}: a refusal without a next step"


PYTHON_RULES: list[Rule] = [
    module_length,
    function_length,
    opening_docstring,
    telling_name,
    kept_tasks,
    next_steps,
]
TEXT_RULES: list[Rule] = [no_leftovers, no_machine_paths]


def _files(folders: tuple[str, ...], suffixes: set[str]) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts
    )


def _findings(rule: Rule, paths: list[Path]) -> list[Finding]:
    found: list[Finding] = []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        found += rule(path.relative_to(ROOT).as_posix(), text)
    return found


@pytest.mark.parametrize("rule", PYTHON_RULES)
def test_python_source(rule: Rule) -> None:
    found = _findings(rule, _files(PACKAGES, {".py"}))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", TEXT_RULES)
def test_every_text(rule: Rule) -> None:
    top = [p for p in ROOT.iterdir() if p.is_file() and p.suffix in {".md", ".toml"}]
    found = _findings(rule, _files(TEXT_FOLDERS, TEXT_SUFFIXES) + sorted(top))
    assert not found, "\n".join(found)


def test_one_module_imports_the_mqtt_library() -> None:
    importing = [
        path.relative_to(ROOT).as_posix()
        for path in _files(("controller", "targets", "hostagent"), {".py"})
        if re.search(r"^\s*(import|from) (aiomqtt|paho)\b", path.read_text(), re.MULTILINE)
    ]
    assert importing == ["controller/service/mqtt.py"]


def test_shell_scripts_parse() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    scripts = [
        path
        for path in _files(("deploy",), {"", ".sh"})
        if re.match(rb"#!.*\b(ba)?sh\b", path.read_bytes()[:80])
    ]
    assert scripts
    for script in scripts:
        done = subprocess.run([bash, "-n", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (module_length, "controller/a.py", "x = 1\n" * 401),
        (module_length, "controller/api/messages.py", "x = 1\n" * 501),
        (module_length, "tests/unit/test_a.py", "x = 1\n" * 501),
        (function_length, "a.py", "def f():\n" + "    x = 1\n" * 60),
        (opening_docstring, "a.py", "import os\n"),
        (telling_name, "controller/utils.py", ""),
        (kept_tasks, "a.py", "asyncio.create_task(f())\n"),
        (kept_tasks, "a.py", "self._loop.create_task(f())\n"),
        (next_steps, "controller/a.py", "raise RejectedError(Code.BUSY, 'no')\n"),
        (next_steps, "hostagent/a.py", "raise RejectedError(code, said, next_step='')\n"),
        (no_leftovers, "a.py", "# TO" + "DO later\n"),
        (no_machine_paths, "a.md", "see /ro" + "ot/notes\n"),
        (no_machine_paths, "a.md", f"see {ROOT}\n"),
    ],
)
def test_each_rule_can_fail(rule: Rule, path: str, text: str) -> None:
    assert list(rule(path, text))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (kept_tasks, "task = asyncio.create_task(f())\ntg.create_task(f())\n"),
        (no_machine_paths, "root=/dev/root rw, state in /var/lib/trilun\n"),
        (function_length, "def f():\n" + "    x = 1\n" * 59),
    ],
)
def test_what_is_fine_passes(rule: Rule, text: str) -> None:
    assert list(rule("a.py", text)) == []
