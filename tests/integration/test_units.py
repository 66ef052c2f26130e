"""The systemd units are accepted by systemd, and the controller's sandbox is tight."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).resolve().parents[2] / "systemd").glob("*.service"))
EXPOSURE = {"trilund@.service": 1.5}

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (systemd)"
)


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, Path]:
    """The units, with programs that exist here."""
    placed = {}
    for unit in UNITS:
        text = re.sub(r"/opt/trilun/bin/\S+", "/bin/true", unit.read_text(encoding="utf-8"))
        placed[unit.name] = tmp_path / unit.name.replace("@", "@ctl1")
        placed[unit.name].write_text(text, encoding="utf-8")
    return placed


@pytest.mark.parametrize("name", [unit.name for unit in UNITS])
def test_systemd_accepts_it(installed: dict[str, Path], name: str) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(installed[name])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in result.stderr.splitlines() if installed[name].name in line]
    assert result.returncode == 0, result.stderr
    assert not said


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_its_sandbox_is_tight(installed: dict[str, Path], name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(installed[name])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found.group(1)) <= EXPOSURE[name]
