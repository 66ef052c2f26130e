"""A lab that could not be made, or whose making was killed: nothing stands in the way of the next.

No host boots here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs import needs, package
from deploy.labs.lab import Lab
from deploy.labs.problem import LabError
from deploy.pair import REPOSITORY
from tests.lab.commands import command

pytestmark = pytest.mark.lab

KILLED = """
import os, signal, sys
from pathlib import Path
from deploy.labs import package
from deploy.labs.lab import Lab
from deploy.labs.{module} import {owner}

# A test run in the background has SIGINT ignored, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

def die(*arguments, **more):
    os.kill(os.getpid(), signal.{signal})

package.install = lambda target: None
{owner}.{step} = die
Lab.up(Path(sys.argv[1]), ["host2"], "embedded")
"""


@pytest.fixture(autouse=True)
def can_be_had() -> None:
    try:
        needs.check(whole_lab=True)
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lab"
    Lab.down(tmp_path / "lab")
    assert list(tmp_path.iterdir()) == []


def killed(directory: Path, module: str, owner: str, step: str, number: signal.Signals) -> None:
    """Make a lab, and end at a step of its making."""
    script = KILLED.format(module=module, owner=owner, step=step, signal=number.name)
    ran = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        cwd=REPOSITORY,
        env={**os.environ, "TRILUN_LAB": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode != 0
    assert "Error" not in ran.stderr.replace("TerminatedError", "")


def left(directory: Path) -> list[str]:
    """Command lines of processes that came of its making."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() in (each / "environ").read_bytes():
                found.append((each / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or is nobody's to look at
            continue
    return found


def test_a_lab_that_can_not_be_made_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: Path) -> None:
        target.mkdir()
        raise LabError("no wheel today")

    with monkeypatch.context() as failing:
        failing.setattr(package, "install", fail)
        with pytest.raises(LabError, match="no wheel today"):
            Lab.up(directory, ["host2"], "embedded")
    assert list(directory.parent.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_leaves_nothing(directory: Path, number: signal.Signals) -> None:
    killed(directory, "layer", "Layer", "build", number)
    assert not left(directory)
    assert list(directory.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "owner", "step"),
    [("layer", "Layer", "build"), ("network", "Network", "ip"), ("process", "Process", "of")],
)
def test_killed_it_says_what_ends_it(directory: Path, module: str, owner: str, step: str) -> None:
    """At any step, with the network's holder already there."""
    killed(directory, module, owner, step, signal.SIGKILL)
    assert left(directory)
    for verb in ("up", "status"):
        said = command(directory, verb)
        assert said.returncode == 2
        assert f"the lab in {directory} was begun and is not finished" in said.stderr
        assert "deploy/lab down" in said.stderr
    assert "the lab is gone" in command(directory, "down").stdout
    assert not left(directory)
    assert not directory.exists()
