"""The data path never waits for the broker: writes go on, mirrored, while it is gone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.pair import PATH, LocalPair

TOOLS = ("mosquitto", "qemu-io")
MISSING = [name for name in TOOLS if shutil.which(name, path=PATH) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def test_writes_are_mirrored_without_a_broker(tmp_path: Path) -> None:
    pair = LocalPair(tmp_path)
    pair.configure()
    try:
        pair.launch_broker()
        pair.launch_controller(1)
        pair.launch_controller(2)
        pair.wait_online("ctl1", "ctl2")
        for volume in ("ctl1/first", "ctl2/second"):
            pair.trilun("volume", "create", volume, str(16 << 20))
        pair.trilun("pair", "create", "demo-remote", "ctl1/first", "ctl2/second")
        pair.trilun("pair", "wait", "demo-remote", "PAIR")
        info = pair.trilun("volume", "show", "ctl1/first")
        first, second = pair.image("first"), pair.image("second")
        pair.kill("broker")
        url = f"iscsi://{info['portals'][0]}/{info['target']}/{info['lun']}"
        command = [pair.tool("qemu-io"), "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "flush"]
        done = subprocess.run(
            [*command, url], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert first.read_bytes() == second.read_bytes()
        assert second.read_bytes()[1 << 20 : (1 << 20) + 65536] == b"\x5a" * 65536
        pair.launch_broker()
        pair.wait_online("ctl1", "ctl2")
        assert pair.trilun("pair", "show", "demo-remote")["pair"]["state"] == "PAIR"
    finally:
        pair.stop()
