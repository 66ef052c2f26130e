"""Registers of lab hosts' processes: all of AVX outlives a change of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.labs import xstate
from deploy.labs.host import Host

pytestmark = pytest.mark.lab


def test_a_processor_with_amx_is_known(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: amx_tile\nflags\t\t: fpu avx512f amx_tile\n")
    assert xstate.is_needed(cpuinfo)
    cpuinfo.write_text("model name\t: amx_tile\nflags\t\t: fpu avx512f\n")
    assert not xstate.is_needed(cpuinfo)


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
