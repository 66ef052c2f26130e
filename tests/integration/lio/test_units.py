"""What a controller with the kernel's target adds to its unit is accepted, and stays tight."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[3] / "systemd"
EXPOSURE = 1.5
"""At most, as without it: /dev/uio*, netlink and one capability more, in a user namespace."""
WITH_CHAP = 2.0
"""At most: a second capability, and no user namespace."""
FILES = {"lio": "trilund.conf", "chap": "chap.conf"}

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (systemd)"
)


@pytest.fixture(params=[(EXPOSURE, ("lio",)), (WITH_CHAP, ("lio", "chap"))], ids=["", "chap"])
def unit_and_exposure(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, float]:
    exposure, names = request.param
    text = (SYSTEMD / "trilund@.service").read_text(encoding="utf-8")
    unit = tmp_path / "trilund@ctl1.service"
    unit.write_text(re.sub(r"/opt/trilun/bin/\S+", "/bin/true", text), encoding="utf-8")
    drop_ins = tmp_path / "trilund@ctl1.service.d"
    drop_ins.mkdir()
    for name in names:
        shutil.copy(SYSTEMD / "lio" / FILES[name], drop_ins / f"{name}.conf")
    return unit, exposure


def test_systemd_accepts_it(unit_and_exposure: tuple[Path, float]) -> None:
    unit, _ = unit_and_exposure
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not [line for line in result.stderr.splitlines() if ".conf" in line]


def test_its_sandbox_is_tight(unit_and_exposure: tuple[Path, float]) -> None:
    unit, exposure = unit_and_exposure
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found.group(1)) <= exposure


def test_the_capability_stays_inside_of_the_user_namespace() -> None:
    """There it is one over root's and the controller's own files, not over everybody's."""
    drop_in = (SYSTEMD / "lio/trilund.conf").read_text(encoding="utf-8")
    assert "PrivateUsers=yes" in (SYSTEMD / "trilund@.service").read_text(encoding="utf-8")
    assert not re.search(r"^PrivateUsers=", drop_in, re.MULTILINE)
    assert re.findall(r"^CapabilityBoundingSet=(.*)", drop_in, re.MULTILINE) == ["CAP_DAC_OVERRIDE"]
