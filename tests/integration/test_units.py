"""The systemd units are accepted by systemd, tight, and leave the agent its way to the host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNITS = sorted([*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.target")])
EXPOSURE = {"trilund@.service": 1.5, "trilun-agent@.service": 3.5}
"""At most, by `systemd-analyze security`: 0 is best, a service without a sandbox has 9.6."""

needs_systemd = pytest.mark.skipif(
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


def directives(unit: Path) -> list[tuple[str, str]]:
    """Keys and values, in order."""
    lines = [line.strip() for line in unit.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition("=") for line in lines if line and line[0] not in "#;["]
    return [(key, value) for key, _, value in pairs]


def capabilities(unit: dict[str, str]) -> list[str]:
    """What the bounding set leaves."""
    return unit["CapabilityBoundingSet"].replace("CAP_", "").split()


@needs_systemd
@pytest.mark.parametrize("name", [unit.name for unit in UNITS])
def test_systemd_accepts_it(installed: dict[str, Path], name: str) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(installed[name])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in result.stderr.splitlines() if installed[name].name in line]
    assert result.returncode == 0, result.stderr
    assert not said


@needs_systemd
@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_its_sandbox_is_tight(installed: dict[str, Path], name: str) -> None:
    threshold = f"--threshold={round(EXPOSURE[name] * 10)}"
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", threshold]
    command.append(str(installed[name]))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "exposure level" in result.stdout


def test_the_agent_may_go_to_the_hosts_mount_namespace() -> None:
    """It mounts there: its own namespace gets what is mounted on the host, and gives nothing."""
    unit = dict(directives(SYSTEMD / "trilun-agent@.service"))
    assert unit["RestrictNamespaces"] == "mnt"
    assert set(capabilities(unit)) >= {"SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"}
    assert "PrivateUsers" not in unit, "capabilities of a user namespace of its own open nothing"
    assert unit["PrivateMounts"] == "yes"


def test_the_agent_sees_what_is_mounted() -> None:
    """Mountpoints are the operator's choice: no place but /tmp is the service's own."""
    unit = dict(directives(SYSTEMD / "trilun-agent@.service"))
    assert unit["ProtectHome"] == "read-only"
    hiding = {"PrivateDevices", "InaccessiblePaths", "TemporaryFileSystem", "RootDirectory"}
    assert not hiding & set(unit)


@pytest.mark.parametrize("name", ["trilund@.service", "trilun-agent@.service"])
def test_files_are_read_only_in_run_too(name: str) -> None:
    """systemd 252 leaves /run out of ProtectSystem=strict beside ProtectKernelTunables=."""
    unit = dict(directives(SYSTEMD / name))
    assert (unit["ProtectSystem"], unit["ReadOnlyPaths"]) == ("strict", "/run")


def test_the_agent_writes_to_nothing_but_its_own_and_iscsiadms() -> None:
    unit = dict(directives(SYSTEMD / "trilun-agent@.service"))
    assert unit["ReadWritePaths"].split() == ["-/etc/iscsi", "-/var/lib/iscsi", "-/run/lock"]


def test_restored_files_keep_what_they_had() -> None:
    """Owner, set-id bits, capabilities, device nodes: what would take them away isn't there."""
    unit = dict(directives(SYSTEMD / "trilun-agent@.service"))
    assert "RestrictSUIDSGID" not in unit
    needed = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "SYS_ADMIN"}
    assert set(capabilities(unit)) == needed | {"SYS_CHROOT", "SYS_PTRACE"}


@pytest.mark.parametrize("name", ["trilund@.service", "trilun-agent@.service"])
def test_instances_share_no_directory(name: str) -> None:
    """systemd gives a service's directories to its user, with all that is in them."""
    unit = dict(directives(SYSTEMD / name))
    assert unit["StateDirectory"] == unit["RuntimeDirectory"] == "trilun/%i"


@pytest.mark.parametrize("name", ["trilund@.service", "trilun-agent@.service"])
def test_a_service_is_part_of_the_target(name: str) -> None:
    unit = dict(directives(SYSTEMD / name))
    assert unit["PartOf"] == unit["WantedBy"] == unit["Also"] == "trilun.target"
    assert unit["Type"] == "notify"
    assert int(unit["WatchdogSec"]) > 0
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
