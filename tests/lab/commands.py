"""`deploy/lab` as a user calls it, for a lab in a directory of the test's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from deploy.pair import REPOSITORY


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`deploy/lab` for a lab in that directory."""
    return subprocess.run(
        [str(REPOSITORY / ".venv/bin/python"), "-m", "deploy.labs", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TRILUN_LAB": str(directory)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
