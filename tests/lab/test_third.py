"""A lab with a third controller, by the lab's own commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.labs import needs
from deploy.labs.lab import Lab
from deploy.labs.problem import LabError
from tests.lab.commands import command

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SIZE_BYTES = 64 << 20


def test_a_third_controller_mirrors_to_the_secondary(tmp_path: Path) -> None:
    try:
        needs.check(whole_lab=True)
    except LabError as error:
        pytest.skip(str(error))
    directory = tmp_path / "lab"

    def trilun(*arguments: str) -> None:
        given = command(directory, "trilun", *arguments)
        assert given.returncode == 0, given.stdout + given.stderr

    try:
        up = command(directory, "up", "--third")
        assert up.returncode == 0, up.stderr
        assert "third" in up.stdout
        for volume in ("third/fourth", "secondary/fifth"):
            trilun("volume", "create", volume, str(SIZE_BYTES))
        trilun("pair", "create", "collected", "third/fourth", "secondary/fifth")
        trilun("pair", "wait", "collected", "PAIR", "--timeout", "120")
        trilun("pair", "verify", "collected")
    finally:
        Lab.down(directory)
    assert list(tmp_path.iterdir()) == []
