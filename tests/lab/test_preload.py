"""What is loaded into lab hosts' kernels: registers, signals, and an end that is everybody's."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.labs import data_sets, preload
from deploy.labs.host import Host
from deploy.labs.one import one_host
from deploy.labs.process import call

pytestmark = pytest.mark.lab


def test_vector_registers_outlive_other_processes(solo: Host) -> None:
    """Digests and copies use what the processor has; several processes take turns."""
    script = (
        "import hashlib\n"
        "data = bytes(range(256)) * 4096\n"
        "wanted = hashlib.sha256(data).hexdigest()\n"
        "for _ in range(100):\n"
        "    copy = bytearray(data)\n"
        "    assert copy == data\n"
        "    assert hashlib.sha256(copy).hexdigest() == wanted\n"
    )
    one = f"python3 -c '{script}'"
    solo.shell("set -e\n" + f"{one} &\n" * 3 + "for each in $(jobs -p); do wait $each; done")


def test_signals_in_the_middle_of_signals_have_room(tmp_path: Path) -> None:
    """Forty deep on a stack of 16 KiB, thousands of times: no frame is on it or stays behind."""
    program = tmp_path / "nested"
    call("cc", "-O2", "-o", str(program), str(Path(__file__).with_name("nested.c")))
    loaded = subprocess.run([program], env=preload.environment(tmp_path), check=False)
    assert loaded.returncode == 0
    # The program can tell: alone, its frames are where its handlers are.
    assert subprocess.run([program], check=False).returncode == 11


ASTRAY = """
import os, sys
for turn in range(1 << 62):
    for fd in (-1, 1):
        try:
            os.write(fd, b"astray\\n")
        except OSError:
            pass
    if turn == 100:
        open(f"/run/astray-{sys.argv[1]}", "w")
"""
"""Its output is the host's console, once its system calls are the machine's."""


def test_a_host_whose_kernel_dies_leaves_no_process_on_the_machine() -> None:
    """Let go by their tracer, its processes would go on as the machine's own, and root's."""
    with one_host("mortal") as host:
        for number in range(6):
            strays = f"setsid python3 -c {shlex.quote(ASTRAY)} {number} >/dev/null 2>&1 </dev/null"
            host.shell(f"{strays} &")
        host.shell("until [ $(ls /run | grep -c astray) = 6 ]; do sleep 0.1; done")
        kernel = host.process
        assert kernel is not None
        processes = _children(kernel.pid)
        assert len(processes) > 3
        os.kill(kernel.pid, signal.SIGKILL)
        try:
            data_sets.wait_for(lambda: not any(map(_runs, processes)), "its processes to end", 10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(kernel.pid, signal.SIGKILL)
        assert "astray" not in host.console.read_text(errors="replace")
        assert not host.powered
        assert host.ending == " by SIGKILL"


def _children(parent: int) -> list[int]:
    paths = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for path in paths for pid in path.read_text().split()]


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
